"""A job that is started again after a failure, by as many processes as there are devices then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dpo_recipes import preparation, workflow
from dpo_recipes.errors import RunError
from dpo_recipes.launch import choose
from dpo_recipes.launch.choose import LaunchFlags, flags_of_retry
from dpo_recipes.launch.job import Launcher, LaunchRequest
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.validate import validate
from dpo_recipes.run_result import RunResult
from dpo_recipes.workflow import RunOptions

TEXT = """\
schema: 1
name: job
model: {path: owner/model}
data:
  train: [{path: owner/pairs}]
  eval: {count: 10}
training: {micro_batch_size: 2, gradient_accumulation_steps: 16}
launch: {num_processes: %s}
output_dir: %s
"""


class _Recorder(Launcher):
    """A launcher that starts nothing and notes what it was to start."""

    def __init__(self, name: str, started: list[tuple[str, int]]) -> None:
        self.name, self.started = name, started

    def command(self, request: LaunchRequest) -> list[str]:
        return ["worker"]

    def start(self, request: LaunchRequest) -> Any:
        self.started.append((self.name, request.num_processes))


class Machine:
    """GPUs that fail one attempt after the other, and what is started on them."""

    def __init__(self, gpus: list[int]) -> None:
        self.gpus = gpus
        self.started: list[tuple[str, int]] = []

    def count(self) -> int:
        return self.gpus[min(len(self.started), len(self.gpus) - 1)]

    def launcher_of(self, name: str) -> Launcher:
        return _Recorder(name, self.started)

    def follow(self, _: Any, run: Any, on_event: Any, **_settings: Any) -> None:
        if len(self.started) < len(self.gpus):
            raise RunError.of("T605", "rank 3 died", why="its GPU has fallen off the bus", fix="run it again")
        RunResult(status="finished", recipe="job").write(run.result)


def _run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpus: list[int],
    processes: str = "auto",
    flags: LaunchFlags | None = None,
    retries: int = 5,
) -> Machine:
    machine = Machine(gpus)
    monkeypatch.setattr(workflow, "count_gpus", machine.count)
    monkeypatch.setattr(choose, "count_gpus", machine.count)
    for module in (preparation, workflow):
        monkeypatch.setattr(module, "launcher_of", machine.launcher_of)
    monkeypatch.setattr(workflow, "follow", machine.follow)
    tmp_path.mkdir(exist_ok=True)
    path = tmp_path / "job.yaml"
    path.write_text(TEXT % (processes, tmp_path / "runs"))
    try:
        options = RunOptions(retries=retries, flags=flags or LaunchFlags())
        workflow.run_recipe(validate(path), lambda event: None, options)
    finally:
        assert len(list((tmp_path / "runs" / "job").iterdir())) == 1  # the same run each time
    return machine


def test_gpus_that_failed_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """32 pairs a step are no multiple of 7, and one process needs no launcher for several."""
    machine = _run(tmp_path, monkeypatch, [8, 7, 1])
    assert machine.started == [("torchrun", 8), ("torchrun", 4), ("local", 1)]


def test_those_that_come_back_are_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = _run(tmp_path, monkeypatch, [8, 7, 7, 8])
    assert [count for _, count in machine.started] == [8, 4, 4, 8]


@pytest.mark.parametrize(
    ("launch", "strategy", "gpus", "processes"),
    [
        ("backend: slurm, num_processes: auto", "ddp", 1, None),
        ("num_processes: auto", "deepspeed-zero2", 2, None),
        ("num_processes: auto", "fsdp", 2, 2),
        ("num_processes: auto", "fsdp", 1, None),
        ("num_processes: auto", "ddp", 1, 1),
    ],
)
def test_only_checkpoints_that_fewer_can_read_are_gone_on_from_by_fewer(
    launch: str, strategy: str, gpus: int, processes: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "count_gpus", lambda: gpus)
    recipe = {
        "name": "r",
        "model": {"path": "a/b"},
        "data": {"train": [{"path": "a/b"}]},
        "launch": yaml.safe_load(f"{{{launch}}}"),
    }
    flags = flags_of_retry(Recipe.model_validate({"schema": 1, **recipe}), None, 4, strategy)
    assert flags == LaunchFlags(num_processes=processes)


def test_a_number_that_was_given_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match="M507"):
        _run(tmp_path, monkeypatch, [8, 7], processes="8")


def test_a_number_on_the_command_line_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = _run(tmp_path, monkeypatch, [8, 8], flags=LaunchFlags(num_processes=2))
    assert machine.started == [("torchrun", 2), ("torchrun", 2)]


def test_the_processor_does_not_stand_in_for_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match="T605"):
        _run(tmp_path, monkeypatch, [8, 0, 8])


def test_no_more_often_than_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match="T605"):
        _run(tmp_path, monkeypatch, [8, 8, 8], retries=1)
    assert _run(tmp_path / "2", monkeypatch, [8, 8, 8], retries=2).started == [("torchrun", 8)] * 3
