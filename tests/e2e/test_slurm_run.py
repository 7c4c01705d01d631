"""`dpo-recipe run --via slurm` on a tiny model, through a real SLURM (see tests/slurm_cluster.py)."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import INSTALL, SlurmCluster, missing_programs, running_cluster, wait_until
from tiny import recipe_text, write_pairs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing_programs()), reason=f"no SLURM here: {INSTALL}"),
]
PROGRAM = str(Path(sys.executable).with_name("dpo-recipe"))
JOINS_PROCESSES = importlib.util.find_spec("dpo_recipes.launch.ranks") is not None


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def environment(cluster: SlurmCluster, tmp_path: Path, tiny_model: Path) -> dict[str, str]:
    write_pairs(tmp_path / "pairs.jsonl")
    (tmp_path / "tiny.yaml").write_text(recipe_text(tiny_model, "pairs.jsonl"), encoding="utf-8")
    cache = {"DPO_RECIPE_CACHE": str(tmp_path / "cache")}
    return {**os.environ, **cache, "SLURM_CONF": cluster.environment["SLURM_CONF"]}


def _run(folder: Path) -> Path:
    (run,) = (folder / "runs" / "tiny").iterdir()
    return run


def test_a_recipe_becomes_a_job_and_the_job_a_model(environment: dict[str, str], tmp_path: Path) -> None:
    setup = tmp_path / "setup.sh"
    setup.write_text("export FROM_SETUP=yes\n", encoding="utf-8")
    options = ["--via", "slurm", "--slurm", "partition=work", "--slurm-setup", str(setup), "--json"]
    done = subprocess.run(
        [PROGRAM, "run", "tiny.yaml", *options, "--set", "launch.slurm.cpus_per_task=1"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["status"], result["steps"]) == ("finished", 3)
    assert (Path(result["model_dir"]) / "adapter_model.safetensors").is_file()
    assert "SLURM job " in done.stderr
    assert "train     step 3/3" in done.stderr  # events cross the shared file system
    script = (_run(tmp_path) / "launch" / "job.sbatch").read_text()
    assert "#SBATCH --partition=work" in script
    assert "export FROM_SETUP=yes" in script


def test_an_interrupt_reaches_the_job_and_leaves_a_checkpoint(environment: dict[str, str], tmp_path: Path) -> None:
    arguments = [PROGRAM, "run", "tiny.yaml", "--via", "slurm", "--set", "training.max_steps=100000"]
    with subprocess.Popen(arguments, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        events = tmp_path / "runs" / "tiny"
        wait_until(lambda: any('"event": "step"' in p.read_text() for p in events.glob("*/events.jsonl")), 120, "none")
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        message = process.stderr.read()
        code = process.wait(timeout=60)
    assert code == 75, message
    assert "error[I101]" in message
    assert "Traceback" not in message
    assert list((_run(tmp_path) / "checkpoints").glob("checkpoint-*"))


def test_an_error_of_the_worker_is_shown_as_it_is_anywhere(environment: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [PROGRAM, "run", "tiny.yaml", "--via", "slurm", "--set", "model.path=nobody/nothing"],
        cwd=tmp_path,
        env={**environment, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf")},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, "error[M509]" in done.stderr) == (6, True), done.stderr


@pytest.mark.skipif(not JOINS_PROCESSES, reason="the worker does not yet know of other processes")
def test_two_processes_train_one_model(environment: dict[str, str], tmp_path: Path) -> None:
    overrides = ["launch.num_processes=2", "training.gradient_accumulation_steps=1"]
    done = subprocess.run(
        [PROGRAM, "run", "tiny.yaml", "--via", "slurm", "--json", *(f"--set={override}" for override in overrides)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["status"], result["steps"]) == ("finished", 3)
    plan = json.loads((_run(tmp_path) / "plan.json").read_text())
    assert (plan["num_processes"], plan["pairs_per_step"]) == (2, 4)
