"""The processes of a run as they make themselves known below `ranks/`: who they are, how they end, where they hang."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import json
import os
import platform
import re
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo_recipes.run_dir import RunDirectory, write_json

_PROCESS, _STACKS = "process.json", "stacks.txt"
_DUMP_S = 2.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_FRAME = re.compile(r'^  File "(?P<file>.+)", line (?P<line>\d+) in (?P<name>.+)$', re.MULTILINE)


@dataclass(frozen=True)
class Rank:
    """One process."""

    number: int
    pid: int
    host: str
    folder: Path

    @property
    def is_here(self) -> bool:
        """Whether it runs on this machine and is alive."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except OSError:
            return False
        return True

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it is on this machine and alive."""
        if self.is_here:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


@contextlib.contextmanager
def announced(run: RunDirectory, rank: int) -> Iterator[None]:
    """Make this process known, and have it write the stacks of its threads on SIGUSR1, whatever it is waiting for."""
    folder = run.ranks / str(rank)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _PROCESS, {"rank": rank, "pid": os.getpid(), "host": socket.gethostname()})
    with (folder / _STACKS).open("w") as stacks:
        faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=True)
        try:
            yield
        finally:
            faulthandler.unregister(signal.SIGUSR1)


def end_with_parent() -> None:
    """Ask the system for SIGTERM when the parent process dies, also of SIGKILL: nobody would stop this one then."""
    if platform.system() == "Linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def read_ranks(run: RunDirectory) -> list[Rank]:
    """The processes that have made themselves known, in order."""
    found = []
    for path in run.ranks.glob(f"*/{_PROCESS}"):
        plain = json.loads(path.read_text(encoding="utf-8"))
        found.append(Rank(plain["rank"], plain["pid"], plain["host"], path.parent))
    return sorted(found, key=lambda rank: rank.number)


def dump_stacks(run: RunDirectory) -> list[str]:
    """A line for each process of this machine that says where it is; the whole stacks stay in its folder."""
    here = [rank for rank in read_ranks(run) if rank.is_here]
    for rank in here:
        rank.send(signal.SIGUSR1)
    time.sleep(_DUMP_S)
    return [f"rank {rank.number} (pid {rank.pid}) is in {_innermost(rank.folder / _STACKS)}" for rank in here]


def _innermost(stacks: Path) -> str:
    """The innermost frame of the thread that Python started with, which stands last, as `function (file:line)`."""
    text = stacks.read_text(encoding="utf-8") if stacks.exists() else ""
    main_thread = text.rpartition("most recent call first")[2]
    frame = _FRAME.search(main_thread)
    return f"{frame['name']} ({frame['file']}:{frame['line']})" if frame else "a place that it did not tell"


def last_steps(run: RunDirectory) -> dict[int, int]:
    """The last step that each process has told."""
    steps = {}
    for rank in read_ranks(run):
        told = [event["step"] for event in read_events(run, rank.number) if event["event"] == "step"]
        if told:
            steps[rank.number] = told[-1]
    return steps


def read_events(run: RunDirectory, rank: int) -> list[dict[str, Any]]:
    """The events of a process; the first one's are the run's."""
    path = run.events if rank == 0 else run.ranks / str(rank) / "events.jsonl"
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]
