"""Finds the unfinished run that a recipe resumes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dpo_recipes import resume
from dpo_recipes.errors import RunError
from dpo_recipes.launch.ending import PARENT
from dpo_recipes.recipe.dump import dump_recipe
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.resume import differences, file_lock, find_unfinished, is_running, nothing_to_resume, read_recipe
from dpo_recipes.run_dir import RunDirectory, create_run_directory, written_to


def recipe(**sections: Any) -> Recipe:
    plain = {"schema": 1, "name": "r", "model": {"path": "gpt2"}, "data": {"train": [{"path": "a/b"}]}}
    return Recipe.model_validate({**plain, **sections})


def begin(folder: Path, of: Recipe) -> RunDirectory:
    run = create_run_directory(folder, of.name)
    run.resolved_recipe.write_text(dump_recipe(of), encoding="utf-8")
    return run


def test_the_newest_unfinished_run_of_the_same_recipe(tmp_path: Path) -> None:
    assert find_unfinished(recipe(), tmp_path, print) is None
    begin(tmp_path, recipe())
    time.sleep(1.1)  # names carry the second
    newer = begin(tmp_path, recipe())
    assert find_unfinished(recipe(), tmp_path, print) == newer
    newer.result.write_text("{}")
    older = find_unfinished(recipe(), tmp_path, print)
    assert older is not None
    assert older != newer


def test_another_recipe_or_broken_folder_is_not_gone_on_with(tmp_path: Path) -> None:
    begin(tmp_path, recipe(training={"learning_rate": 1e-4}))
    torn = begin(tmp_path, recipe())
    torn.resolved_recipe.write_text("{", encoding="utf-8")
    begin(tmp_path, recipe()).resolved_recipe.unlink()
    messages: list[str] = []
    assert find_unfinished(recipe(), tmp_path, messages.append) is None
    assert messages == [f"{torn.path} is unfinished, but its resolved.yaml cannot be read: it is not resumed"]


def test_what_does_not_change_the_weights_may_change(tmp_path: Path) -> None:
    run = begin(tmp_path, recipe())
    now = recipe(
        summary="x",
        checkpoints={"save_steps": 3},
        tracking={"project": "p"},
        output_dir=str(tmp_path),
        launch={"num_threads": 2, "strategy": "ddp"},
        accept_advice=["F795"],
    )
    assert find_unfinished(now, tmp_path, print) == run
    # A number of processes in the recipe multiplies the effective batch; the flag of the command keeps it.
    several = recipe(launch={"num_processes": 2})
    assert differences(recipe(), several) == [("pairs a step", 16, 32)]
    kto = {"kind": "kto"}
    assert differences(recipe(objective=kto), recipe(objective=kto, launch={"num_processes": 2})) == [
        ("answers a step", 16, 32)
    ]
    assert find_unfinished(several, tmp_path, print) is None


def test_differences_are_named_by_path() -> None:
    changed = differences(
        recipe(training={"learning_rate": 1e-4}), recipe(data={"train": [{"path": "a/b"}, {"path": "c/d"}]})
    )
    paths = {path: (old, new) for path, old, new in changed}
    assert paths["training.learning_rate"] == (1e-4, 5e-6)
    assert paths["data.train[1].path"] == (None, "c/d")


def test_a_run_that_somebody_works_in_is_left_alone(tmp_path: Path) -> None:
    run = begin(tmp_path, recipe())
    with file_lock(run.lock):
        assert is_running(run)
        assert find_unfinished(recipe(), tmp_path, print) is None
        assert nothing_to_resume(recipe(), tmp_path).findings[0].code == "T615"
        with pytest.raises(RunError) as caught, file_lock(run.lock):
            pass
        assert caught.value.findings[0].code == "T615"
    assert not is_running(run)
    assert find_unfinished(recipe(), tmp_path, print) == run


@pytest.mark.parametrize("lock", ["lock", "command_lock"])
def test_the_run_beside_which_another_begins_is_named(
    tmp_path: Path, lock: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begin(tmp_path, recipe())
    with file_lock(getattr(run, lock)):
        assert find_unfinished(recipe(), tmp_path, print) is None
    assert capsys.readouterr().out == f"another run of this recipe is being executed in {run.path}\n"


WORKER = """
import sys, time
from pathlib import Path
from dpo_recipes.launch.ranks import Rank, record_process
from dpo_recipes.resume import file_lock
from dpo_recipes.run_dir import RunDirectory
run = RunDirectory(Path(sys.argv[1]))
record_process(run, Rank())
with file_lock(run.lock):
    print("ready", flush=True)
    time.sleep(2)
"""


def test_workers_that_end_without_their_command_are_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begin(tmp_path, recipe())
    command = [sys.executable, "-c", WORKER, str(run.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, PARENT: "1"}) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        assert find_unfinished(recipe(), tmp_path, print) == run
        assert "its workers are writing a checkpoint: waiting for them" in capsys.readouterr().out
        assert worker.poll() is not None or not is_running(run)


def test_a_run_that_cannot_be_written_to_is_no_traceback(tmp_path: Path) -> None:
    run = begin(tmp_path, recipe())
    for number, code in ((errno.EROFS, "T601"), (errno.ENOSPC, "T602")):
        with pytest.raises(RunError, match=code), written_to(run):
            raise OSError(number, os.strerror(number))


def test_why_there_is_nothing_to_go_on_with(tmp_path: Path) -> None:
    (nothing,) = nothing_to_resume(recipe(), tmp_path).findings
    assert nothing.code == "T614"
    begin(tmp_path, recipe(training={"learning_rate": 1e-4}))
    (changed,) = nothing_to_resume(recipe(), tmp_path).findings
    assert changed.code == "T611"
    assert changed.why == "`training.learning_rate` was 0.0001 and is 5e-06"


def test_an_earlier_recipe_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for rate in (1e-4, 2e-4, 3e-4):
        run = begin(tmp_path, recipe(training={"learning_rate": rate}))
        os.utime(run.resolved_recipe, (1e9, 1e9))  # what was changed just now is not remembered
    read: list[Path] = []
    monkeypatch.setattr(resume, "read_recipe", lambda run: read.append(run.path) or read_recipe(run))
    for _ in range(3):
        assert find_unfinished(recipe(), tmp_path, print) is None
    assert len(read) == 3
    assert find_unfinished(recipe(training={"learning_rate": 3e-4}), tmp_path, print) == run
    run.resolved_recipe.write_text(dump_recipe(recipe()), encoding="utf-8")
    assert find_unfinished(recipe(), tmp_path, print) == run
