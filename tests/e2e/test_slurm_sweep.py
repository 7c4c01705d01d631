"""`dpo-recipe run --via slurm` with a sweep of tiny runs, through a real SLURM (see tests/slurm_cluster.py)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from slurm_cluster import INSTALL, SlurmCluster, missing_programs, running_cluster, wait_until
from tiny import recipe_text, write_pairs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing_programs()), reason=f"no SLURM here: {INSTALL}"),
]
PROGRAM = str(Path(sys.executable).with_name("dpo-recipe"))
GRID = "sweep: {parallel: 2, grid: {training.learning_rate: [1e-2, 1e-3], training.weight_decay: [0.0, 0.5]}}\n"


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def environment(cluster: SlurmCluster, tmp_path: Path, tiny_model: Path) -> dict[str, str]:
    text = recipe_text(tiny_model, write_pairs(tmp_path / "pairs.jsonl", 60))
    text = text.replace("max_steps: 3", "max_steps: 40") + "checkpoints: {save_steps: 5}\n" + GRID
    (tmp_path / "tiny.yaml").write_text(text, encoding="utf-8")
    own = {"DPO_RECIPE_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **own, "SLURM_CONF": cluster.environment["SLURM_CONF"]}


def _run(environment: dict[str, str], folder: Path, *options: str) -> dict[str, Any]:
    """The result of a command."""
    arguments = [PROGRAM, "run", "tiny.yaml", "--json", *options]
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _sweep(folder: Path, output: str = "runs") -> Path:
    (sweep,) = (folder / output / "tiny").glob("*-*")
    return sweep


def _task_process(number: int) -> psutil.Process | None:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if "dpo_recipes.jobs.array_task" in line and line[-1] == str(number):
                return process
    return None


def _has_stepped(sweep: Path, name: str) -> bool:
    events = sweep / "trials" / name / "events.jsonl"
    return events.exists() and '"event": "step"' in events.read_text()


def _most_at_once(sweep: Path) -> int:
    """The largest number of attempts that overlap."""
    moments: list[tuple[float, int]] = []
    for path in (sweep / "trials").glob("*.attempts.jsonl"):
        for line in path.read_text().splitlines():
            ((kind, moment),) = json.loads(line).items()
            moments.append((moment, 1 if kind == "started_at" else -1))
    now = most = 0
    for _, change in sorted(moments):
        now += change
        most = max(most, now)
    return most


def test_an_array_survives_a_kill_and_a_time_limit_and_finds_the_same_winner(
    environment: dict[str, str], tmp_path: Path, cluster: SlurmCluster
) -> None:
    """One task is killed, another one gets SLURM's warning before its time limit. Neither changes a value, and
    their runs are started once more."""
    expected = _run(environment, tmp_path, "--set", "output_dir=calm", "--set", "sweep.parallel=1")
    cache = sorted((tmp_path / "cache" / "reference").iterdir())
    arguments = [PROGRAM, "run", "tiny.yaml", "--json", "--via", "slurm"]
    with subprocess.Popen(
        arguments, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as command:
        wait_until(lambda: list((tmp_path / "runs" / "tiny").glob("*-*/launch/slurm_job")), 60, "nothing is submitted")
        sweep = _sweep(tmp_path)
        wait_until(lambda: _has_stepped(sweep, "001"), 120, cluster.logs)
        killed = _task_process(0)
        assert killed is not None
        killed.kill()
        wait_until(lambda: _has_stepped(sweep, "002"), 120, cluster.logs)
        number = (sweep / "launch" / "slurm_job").read_text()
        cluster.call("scancel", "--batch", "--signal=USR1", f"{number}_1")
        output, message = command.communicate(timeout=500)
    assert command.returncode == 0, message
    found = json.loads(output)
    assert [trial["value"] for trial in found["trials"]] == [trial["value"] for trial in expected["trials"]]
    assert (found["best"]["trial"], found["best"]["lead"]) == (expected["best"]["trial"], expected["best"]["lead"])
    assert [trial["runs"][0]["attempts"] for trial in found["trials"]] == [2, 2, 1, 1]
    assert _most_at_once(sweep) == 2
    assert sorted((tmp_path / "cache" / "reference").iterdir()) == cache
    assert f"task {number}_1 is queued again" in message
    assert "Traceback" not in message
    assert (sweep / "best" / "model" / "adapter_model.safetensors").is_file()
    plan = json.loads((sweep / "trials" / "003" / "plan.json").read_text())
    assert plan["command"][0] == "srun"


def test_ctrl_c_leaves_checkpoints_and_the_next_command_submits_what_is_left(
    environment: dict[str, str], tmp_path: Path, cluster: SlurmCluster
) -> None:
    arguments = [PROGRAM, "run", "tiny.yaml", "--via", "slurm", "--set", "sweep.max_trials=3"]
    with subprocess.Popen(arguments, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as command:
        wait_until(lambda: list((tmp_path / "runs" / "tiny").glob("*-*/launch/slurm_job")), 60, "nothing is submitted")
        sweep = _sweep(tmp_path)
        wait_until(lambda: _has_stepped(sweep, "001") and _has_stepped(sweep, "002"), 120, cluster.logs)
        command.send_signal(signal.SIGINT)
        _, message = command.communicate(timeout=60)
    assert command.returncode == 75, message
    assert "error[I101]" in message
    assert list((sweep / "trials" / "001" / "checkpoints").glob("checkpoint-*"))
    assert not (sweep / "trials" / "003").exists()
    assert not cluster.call("squeue", "-h")
    result = _run(environment, tmp_path, "--via", "slurm", "--set", "sweep.max_trials=3")
    assert [trial["runs"][0]["attempts"] for trial in result["trials"]] == [2, 2, 1]


def test_a_trial_of_two_nodes(environment: dict[str, str], tmp_path: Path) -> None:
    overrides = ["launch.num_processes=2", "launch.num_nodes=2", "sweep.max_trials=1", "training.max_steps=3"]
    result = _run(environment, tmp_path, "--via", "slurm", *(f"--set={override}" for override in overrides))
    assert result["trials"][0]["state"] == "finished"
    plan = json.loads((_sweep(tmp_path) / "trials" / "001" / "plan.json").read_text())
    assert (plan["num_processes"], plan["pairs_per_step"]) == (2, 8)
