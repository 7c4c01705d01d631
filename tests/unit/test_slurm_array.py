"""The script of a SLURM array, the lines in which SLURM describes it, and how its tasks may end."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sweeps import RECIPE

from dpo_recipes.errors import RecipeError
from dpo_recipes.launch.choose import launcher_of
from dpo_recipes.launch.job import LaunchRequest
from dpo_recipes.launch.ranks import Rank, record_process
from dpo_recipes.launch.slurm_array import array_script
from dpo_recipes.launch.slurm_errors import task_ended
from dpo_recipes.launch.slurm_settings import SlurmSettings
from dpo_recipes.launch.slurm_state import JobView, parse_array
from dpo_recipes.launch.srun import IN_TASK, LAUNCHER, SrunJob
from dpo_recipes.recipe.compose import compose
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.stored import from_plain, to_plain
from dpo_recipes.recipe.validate import validate
from dpo_recipes.run_dir import RunDirectory

PLAIN = {"schema": 1, "name": "r", "model": {"path": "gpt2"}, "data": {"train": [{"path": "a/b"}]}}


def _request(settings: SlurmSettings | None = None, processes: int = 1, nodes: int = 1, **launch: Any) -> LaunchRequest:
    recipe = Recipe.model_validate({**PLAIN, "hardware": {"device": "cpu"}, "launch": {"backend": "slurm", **launch}})
    run = RunDirectory(Path("/runs/r/1"))
    return LaunchRequest(recipe, run, processes, nodes, slurm_settings=settings or SlurmSettings())


def _options(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")]


def test_a_task_for_each_run_with_the_resources_of_one_run() -> None:
    request = _request(SlurmSettings({"partition": "gpu"}, "module load cuda\n"), slurm={"memory": "4G"})
    script = array_script(Path("/runs/r/1"), request, [0, 1, 2, 5, 7, 8], 2, "a.module")
    options = _options(script)
    assert "array=0-2,5,7-8%2" in options
    assert {"job-name=r", "mem=4G", "partition=gpu", "requeue", "ntasks-per-node=1"} <= set(options)
    assert script.index("module load cuda") < script.index("-m a.module")
    assert "scontrol requeue" in script
    assert "scontrol requeue" not in array_script(Path("/r"), _request(slurm={"requeue": False}), [0], 1, "a.module")


@pytest.mark.parametrize("name", ["with blank", "quote'and\"", "$(touch pwned)", "line\n#SBATCH --partition=other"])
def test_the_path_of_a_sweep_is_text_and_nothing_else(name: str, tmp_path: Path) -> None:
    script = array_script(tmp_path / name, _request(), [0], 1, "a.module")
    head = script.partition('[ -d "$run/launch" ]')[0] + 'printf "%s\\0" "$run" "$task"'
    environment = {"SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "3", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", head], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.stdout.split("\0")[:2] == [str(tmp_path / name), "17_3"]
    assert list(tmp_path.iterdir()) == []
    assert subprocess.run(["bash", "-n", "-c", script]).returncode == 0
    assert "partition" not in script.split("\n\n")[0]


def _line(tasks: str, state: str, **others: str) -> str:
    fields = {"Restarts": "0", "ExitCode": "0:0", "NodeList": "n1", **others}
    rest = " ".join(f"{key}={value}" for key, value in fields.items())
    return f"JobId=18 ArrayJobId=17 ArrayTaskId={tasks} JobName=r JobState={state} {rest}"


def test_the_tasks_of_an_array_are_read_from_its_lines() -> None:
    lines = [_line("0", "FAILED", ExitCode="6:0"), _line("1", "RUNNING", Restarts="2"), _line("2-3,7%2", "PENDING")]
    views = parse_array("\n".join(lines))
    assert views[0] == JobView("FAILED", exit_code=6, nodes="n1")
    assert (views[1].runs, views[1].restarts) == (True, 2)
    assert [number for number, view in views.items() if view.waits] == [2, 3, 7]


@pytest.mark.parametrize(
    ("view", "code", "words"),
    [
        (None, "T637", "no longer knows job 17_2"),
        (JobView("RUNNING", nodes="n1"), "T637", "no longer knows job 17_2"),
        (JobView("TIMEOUT", nodes="n1"), "T633", "time limit"),
        (JobView("OUT_OF_MEMORY", nodes="n1"), "T634", "more memory"),
        (JobView("NODE_FAIL", nodes="n1"), "T635", "node"),
        (JobView("CANCELLED", nodes="n1"), "T636", "cancelled"),
        (JobView("FAILED", signal=9), "T605", r"task 17_2 was killed \(signal 9\)"),
        (JobView("FAILED", exit_code=137), "T605", r"signal 9"),
        (JobView("FAILED", exit_code=75), "I101", "asked to stop"),
        (JobView("FAILED", exit_code=72, nodes="n1"), "T632", "the node n1 cannot read the run directory /runs/r/1"),
        (JobView("FAILED", exit_code=1, nodes="n1"), "T632", "nothing in /runs/r/1/launch/task.2.log"),
    ],
)
def test_a_task_that_recorded_nothing_ended_for_a_reason(view: JobView | None, code: str, words: str) -> None:
    error = task_ended(view, "17_2", Path("/runs/r/1/launch/task.2.log"), Recipe.model_validate(PLAIN))
    assert error is not None
    assert error.findings[0].code == code
    assert error.findings[0].fix
    with pytest.raises(type(error), match=words):
        raise error


def test_a_task_that_found_nothing_to_do_has_no_error() -> None:
    assert task_ended(JobView("COMPLETED"), "17_2", Path("/log"), Recipe.model_validate(PLAIN)) is None


def test_a_composed_recipe_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(RECIPE, encoding="utf-8")
    child = tmp_path / "child.yaml"
    child.write_text("extends: base.yaml\nsweep: {grid: {training.seed: [1, 2]}}\n", encoding="utf-8")
    composed = compose(child, ["training.weight_decay=0.1"])
    assert from_plain(json.loads(json.dumps(to_plain(composed)))) == composed


@pytest.mark.parametrize("name", ["launch.slurm.memory", "launch.num_processes", "hardware.device"])
def test_what_an_array_requests_once_cannot_be_swept(name: str, tmp_path: Path) -> None:
    values = {"launch.slurm.memory": "[1G, 2G]", "launch.num_processes": "[1, 2]", "hardware.device": "[cpu, auto]"}
    path = tmp_path / "job.yaml"
    path.write_text(RECIPE + f"sweep: {{grid: {{{name}: {values[name]}}}}}\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=rf"R362.*`{name}` cannot be swept[\s\S]*same resources"):
        validate(path, ["launch.backend=slurm"])
    if name == "launch.slurm.memory":
        validate(path)


def test_in_a_task_srun_starts_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    request = _request(processes=4, nodes=2)
    assert launcher_of("slurm") is not LAUNCHER
    monkeypatch.setenv(IN_TASK, "17_3")
    assert launcher_of("slurm") is LAUNCHER
    assert launcher_of("torchrun") is not LAUNCHER
    command = LAUNCHER.command(request)
    assert command[:4] == ["srun", "--nodes=2", "--ntasks=4", "--ntasks-per-node=2"]
    assert command[-1] == "/runs/r/1"
    script = command[command.index("-c") + 1]
    environment = {"PATH": "/usr/bin:/bin", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"}
    environment |= {"SLURM_NTASKS": "4", "DPO_RECIPE_PARENT": "1"}
    show = 'echo $RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE "${DPO_RECIPE_PARENT-none}"'
    done = subprocess.run(
        ["bash", "-c", script, "task", "bash", "-c", show], capture_output=True, text=True, env=environment
    )
    assert done.stdout == "3 1 4 2 none\n"
    assert LAUNCHER.command(_request())[4:6] == ["--kill-on-bad-exit=1", "--export=ALL"]
    assert "bash" not in LAUNCHER.command(_request())


@pytest.fixture
def step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], SrunJob]:
    """A step whose srun is a shell line."""

    def start(text: str) -> SrunJob:
        (tmp_path / "srun").write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "srun").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        return LAUNCHER.start(replace(_request(), run=RunDirectory(tmp_path)))

    return start


def _end_of(job: SrunJob) -> int:
    while (code := job.poll()) is None:
        time.sleep(0.01)
    return code


@pytest.mark.parametrize(
    ("text", "code"), [("exit 6", 6), ("exit 137", -9), ("kill -9 $$", -9), ('echo 75 >"$on_request"', 75), ("", 0)]
)
def test_the_exit_code_of_a_step_is_that_of_its_worker(step: Callable[[str], SrunJob], text: str, code: int) -> None:
    """srun gives 128 and the signal of a worker that was killed."""
    assert _end_of(step(text)) == code


def test_a_step_without_workers_ends_at_once(step: Callable[[str], SrunJob]) -> None:
    for stop, code in ((SrunJob.interrupt, -2), (SrunJob.kill, -9)):
        job = step("sleep 60")
        stop(job)
        assert _end_of(job) == code


def test_the_workers_of_all_nodes_are_asked_to_stop(
    step: Callable[[str], SrunJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scancel").write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/called\n')
    (tmp_path / "scancel").chmod(0o755)
    monkeypatch.setenv(IN_TASK, "17_3")
    job = step("sleep 60")
    assert not job.obeys_second_signal
    record_process(RunDirectory(tmp_path), Rank())
    job.interrupt()
    assert (tmp_path / "called").read_text() == "--signal=INT 17_3\n"
    assert job.poll() is None
    (tmp_path / "ranks" / "0" / "process.json").unlink()
    job.kill()
    assert _end_of(job) == -9
