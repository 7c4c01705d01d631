"""Writes the stacks of a run's processes on request, to find out where a hanging run is."""

from __future__ import annotations

import contextlib
import faulthandler
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from dpo_recipes.launch.ranks import Rank, known_ranks, signal_processes
from dpo_recipes.run_dir import RunDirectory

_STACKS = "stacks.txt"
_DUMP_S = 2.0
_FRAME = re.compile(r'^  File "(?P<file>.+)", line (?P<line>\d+) in (?P<name>.+)$', re.MULTILINE)
_CRASHED = re.compile(r"^Current thread [^\n]*\n(?P<frames>(?:  File [^\n]*\n?)+)", re.MULTILINE)


@contextlib.contextmanager
def stacks_on_request(run: RunDirectory, rank: Rank) -> Iterator[None]:
    """Make this process write the stacks of its threads on SIGUSR1, even while it waits in a library."""
    with (run.ranks / str(rank.index) / _STACKS).open("w") as stacks:
        faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=True)
        try:
            yield
        finally:
            faulthandler.unregister(signal.SIGUSR1)


def dump_stacks(run: RunDirectory) -> list[str]:
    """A line for each process of this machine with its innermost frame; the full stacks stay in its folder."""
    if not signal_processes(run, signal.SIGUSR1):
        return []
    time.sleep(_DUMP_S)
    folders = [(rank, run.ranks / str(rank) / _STACKS) for rank in known_ranks(run)]
    return [f"rank {rank} is in {_innermost(path)}" for rank, path in folders if path.exists() and path.stat().st_size]


def crashed_in(log: str) -> str | None:
    """The frame of the thread that a signal ended, as `function (file:line)`, from faulthandler's output in a log.

    None if it wrote nothing, or if the thread is not a Python thread.
    """
    thread = _CRASHED.search(log)
    return _first_frame(thread["frames"]) if thread else None


def _innermost(stacks: Path) -> str:
    """The innermost frame of the main thread, which faulthandler writes last."""
    main_thread = stacks.read_text(encoding="utf-8").rpartition("most recent call first")[2]
    return _first_frame(main_thread) or "an unknown place"


def _first_frame(frames: str) -> str | None:
    frame = _FRAME.search(frames)
    return f"{frame['name']} ({frame['file']}:{frame['line']})" if frame else None
