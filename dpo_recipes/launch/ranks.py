"""The rank of this process, and the files in which each process keeps its events and output. Loads no torch."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo_recipes.launch.ending import PARENT
from dpo_recipes.run_dir import RunDirectory, read_json_lines, write_json

LOST_EACH_OTHER = "T613"
"""The code of a failure that is caused by the failure of another process."""


@dataclass(frozen=True)
class Rank:
    """The rank of a process among those that were started together, as torchrun and similar launchers define it."""

    index: int = 0
    num_processes: int = 1
    local_index: int = 0
    """The number among the processes of this machine."""
    processes_here: int = 1
    is_joined: bool = False
    """Whether a launcher for several processes has started this one, even if it is the only one."""

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes the run's results."""
        return self.index == 0

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Rank:
        """The ranks in RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE; a single process without them."""
        if "RANK" not in environment or "WORLD_SIZE" not in environment:
            return cls()
        rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        local_rank = int(environment.get("LOCAL_RANK", rank))
        return cls(rank, size, local_rank, int(environment.get("LOCAL_WORLD_SIZE", size)), is_joined=True)


def events_path(run: RunDirectory, rank: int) -> Path:
    """The file of a process's events; the first process writes to the run's own."""
    return run.events if rank == 0 else run.ranks / str(rank) / "events.jsonl"


def log_path(run: RunDirectory, rank: int) -> Path:
    """The file of a process's output; the first process writes to the run's own."""
    return run.log if rank == 0 else run.ranks / str(rank) / "run.log"


def record_process(run: RunDirectory, rank: Rank) -> None:
    """Record this process's id and host, so that it can be found and asked to stop."""
    folder = run.ranks / str(rank.index)
    folder.mkdir(parents=True, exist_ok=True)
    import psutil

    began = psutil.Process().create_time()
    record = {"rank": rank.index, "local_rank": rank.local_index, "pid": os.getpid(), "began": began}
    record |= {"host": socket.gethostname(), "is_followed": PARENT in os.environ}
    write_json(folder / "process.json", record)


def redirect_output(run: RunDirectory, rank: Rank) -> None:
    """Send the output of all processes but the first to files of their own."""
    if rank.is_main:
        return
    log = os.open(log_path(run, rank.index), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def processes_here(run: RunDirectory) -> Iterator[int]:
    """The ids of a run's processes on this machine."""
    yield from (record["pid"] for record in _records_here(run))


def followed_processes(run: RunDirectory) -> Iterator[int]:
    """Those of the run's processes that a command has started and that end with it."""
    yield from (record["pid"] for record in _records_here(run) if record.get("is_followed"))


def _records_here(run: RunDirectory) -> Iterator[dict[str, Any]]:
    for path in sorted(run.ranks.glob("*/process.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # it is being written
            continue
        if record["host"] == socket.gethostname() and _is_alive(record["pid"], record["began"]):
            yield record


def _is_alive(pid: int, began: float) -> bool:
    """Whether this is still the recorded process: the system reuses process ids."""
    import psutil

    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - began) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def signal_processes(run: RunDirectory, number: signal.Signals) -> bool:
    """Send a signal to each process of the run on this machine. Returns whether there was any."""
    reached = False
    for pid in processes_here(run):
        try:
            os.kill(pid, number)
            reached = True
        except ProcessLookupError:
            continue
    return reached


def first_failure(run: RunDirectory) -> tuple[dict[str, Any] | None, int | None]:
    """The `error` event of the process that failed first, and its rank, or None if no process wrote one."""
    errors = [
        (event, rank) for rank in known_ranks(run) for event in read_events(run, rank) if event["event"] == "error"
    ]
    # When one fails, others lose their connection to it or are asked to end. The cause is an error of another kind.
    return min(errors, key=lambda error: (_is_consequence(error[0]), error[0]["time"]), default=(None, None))


def _is_consequence(event: dict[str, Any]) -> bool:
    return any(may_be_consequence(finding["code"]) for finding in event["findings"])


def may_be_consequence(code: str) -> bool:
    """Whether a process may have ended with this error because another one ended."""
    return code == LOST_EACH_OTHER or code.startswith("I")


def known_ranks(run: RunDirectory) -> list[int]:
    """The ranks that have a folder, and the first one."""
    return sorted({0, *(int(path.name) for path in run.ranks.glob("*") if path.name.isdecimal())})


def read_events(run: RunDirectory, rank: int) -> list[dict[str, Any]]:
    """All events of a process."""
    return read_json_lines(events_path(run, rank))


def last_step(run: RunDirectory, rank: int) -> int | None:
    """The last step that a process has reported, or None before its first."""
    return max((event["step"] for event in read_events(run, rank) if event["event"] == "step"), default=None)
