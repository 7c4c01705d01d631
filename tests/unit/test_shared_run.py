"""In which run directory several nodes keep what belongs to all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dpo_recipes.engine.shared_run import find_shared_run
from dpo_recipes.errors import RunError
from dpo_recipes.events import EventLog
from dpo_recipes.run_dir import RunDirectory


def directory(path: Path, *, begun: bool = False) -> RunDirectory:
    (path / "checkpoints" / "checkpoint-3" if begun else path).mkdir(parents=True)
    return RunDirectory(path)


def processes(*others: tuple[RunDirectory, bool], sees: bool = True) -> Any:
    """This process first, then others with their run directories and whether these have checkpoints."""

    def gather(value: Any) -> list[Any]:
        if isinstance(value, bool):
            return [value, *(sees for _ in others)]
        return [value, *((str(run.path), has) for run, has in others)]

    return SimpleNamespace(gather=gather, local_rank=0)


@pytest.fixture
def events(tmp_path: Path) -> Iterator[EventLog]:
    with EventLog(tmp_path / "events.jsonl") as log:
        yield log


def test_the_one_with_checkpoints_is_the_home_of_all(tmp_path: Path, events: EventLog) -> None:
    new, begun = directory(tmp_path / "b"), directory(tmp_path / "a", begun=True)
    assert find_shared_run(new, processes((begun, True)), events) == begun
    assert new.shared_run == begun
    assert find_shared_run(begun, processes((new, False)), events) == begun
    assert begun.shared_run == begun


def test_at_first_it_is_that_of_the_first_process(tmp_path: Path, events: EventLog) -> None:
    first, second = directory(tmp_path / "a"), directory(tmp_path / "b")
    assert find_shared_run(first, processes((second, False)), events) == first
    assert first.shared_run == first
    assert find_shared_run(second, processes((first, True)), events) == first
    assert find_shared_run(second, processes((first, False)), events) == second.shared_run == second, (
        "the ranks were dealt anew"
    )


def test_without_common_files_each_keeps_its_own_and_a_note_says_so(tmp_path: Path, events: EventLog) -> None:
    first, second = directory(tmp_path / "a"), directory(tmp_path / "b")
    assert find_shared_run(first, processes((second, False), sees=False), events) == first
    assert "this run cannot be resumed" in (tmp_path / "events.jsonl").read_text()
    with pytest.raises(RunError, match="T618"):
        find_shared_run(directory(tmp_path / "c", begun=True), processes((second, False), sees=False), events)
