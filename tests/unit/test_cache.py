"""Entries of the cache that several processes need at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from dpo_recipes.cache import cache_folder, entry_lock, get_or_build
from dpo_recipes.locks import held, is_held

FORK = multiprocessing.get_context("fork")


def _build(folder: Path, seconds: float) -> None:
    """Count a build, take some time, and leave a file."""
    with (cache_folder() / "builds").open("a") as file:
        file.write("x")
    (folder / "half").write_text("")
    time.sleep(seconds)
    (folder / "value").write_text("whole")


def _need(seconds: float = 0.3) -> None:
    folder, _ = get_or_build("kind", "key", lambda partial: _build(partial, seconds))
    assert (folder / "value").read_text() == "whole"


def test_of_several_processes_one_builds_and_the_others_wait() -> None:
    processes = [FORK.Process(target=_need) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert (cache_folder() / "builds").read_text() == "x"
    assert sorted(path.name for path in (cache_folder() / "kind").iterdir()) == ["key"]  # and no lock


def test_a_process_that_is_killed_frees_the_entry_and_what_it_left_is_removed() -> None:
    process = FORK.Process(target=_need, args=(60,))
    process.start()
    while not list(cache_folder().glob("kind/key.*.partial/half")):
        time.sleep(0.01)
    assert is_held(cache_folder() / "kind" / "key.lock")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    _need(0)
    assert (cache_folder() / "builds").read_text() == "xx"
    assert sorted(path.name for path in (cache_folder() / "kind").iterdir()) == ["key"]


def test_other_entries_do_not_wait() -> None:
    with entry_lock("kind", "other"):
        _need(0)


def test_a_build_that_fails_leaves_nothing() -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        get_or_build("kind", "key", fail)
    assert list((cache_folder() / "kind").iterdir()) == []


def test_a_file_system_without_locks_lets_each_process_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(file: object, kind: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    with held(tmp_path / "lock") as is_locked:
        assert not is_locked
    _need(0)
