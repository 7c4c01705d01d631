"""Follows the processes of a run: passes their events on, forwards signals, detects hangs, explains failures."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from dpo_recipes.engine.checkpoints.folder import newest_first
from dpo_recipes.errors import DpoRecipeError, Finding, Interrupted, RunError
from dpo_recipes.events import EventReader
from dpo_recipes.failures import less_memory_fix
from dpo_recipes.hardware.machine import num_out_of_memory_kills
from dpo_recipes.launch.job import Job, Stoppable
from dpo_recipes.launch.ranks import (
    LOST_EACH_OTHER,
    first_failure,
    known_ranks,
    last_step,
    log_path,
    may_be_consequence,
)
from dpo_recipes.launch.stacks import crashed_in, dump_stacks
from dpo_recipes.run_dir import RunDirectory

EventHandler = Callable[[dict[str, Any]], bool | None]
"""Gets each event of a run. True asks the workers to stop, as Ctrl-C does."""
_POLL_S = 0.1
_NO_SPACE_BYTES = 2**20
_TRANSIENT = ("T605", "T612", "T613", "T635", "T637")
"""A kill or a crash, a hang, a lost connection, a failed node, and a job of which SLURM knows nothing."""
_MEDIANS = 20
"""A step that takes this many times the median of the earlier steps counts as a hang."""
_CHILD_FAILED = re.compile(r"rank\s*:\s*(\d+) \(local_rank: \d+\)\s+exitcode\s*:\s*(-?\d+)")
"""torchrun 2.13's line about the process that failed first (torch/distributed/elastic/multiprocessing/errors)."""
_NOT_MET = re.compile(r"^torch\.distributed\.elastic\.rendezvous\.api\.Rendezvous\w+Error", re.MULTILINE)
"""The errors with which torchrun 2.13 ends before it starts a worker (torch/distributed/elastic/rendezvous/api.py)."""
_NCCL_TIMEOUT = re.compile(r"Watchdog caught collective operation timeout: (.{1,300})")
"""What torch 2.13 prints before it aborts a process (torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp)."""


class WorkerBug(Exception):
    """A worker ended with an exception that the person did not cause; its traceback is in run.log."""


def follow(
    job: Job, run: RunDirectory, on_event: EventHandler, *, watchdog_minutes: float | None = None, num_nodes: int = 1
) -> None:
    """Pass events on until the job has finished. Raises the error of a job that failed: every `DpoRecipeError` of a
    stage, `Interrupted` I101 and I130, `RunError` T603, T605, T612 and T613, and `WorkerBug`."""
    reader = EventReader(run.events)
    watchdog, kills = Watchdog(watchdog_minutes), num_out_of_memory_kills()
    with forwarded_signals(job) as asked:
        returncode: int | None = None
        while returncode is None:
            returncode = job.poll()  # read once more after the end: the last events came before it
            for event in reader.new_events():
                watchdog.see(event)
                _handle(event, on_event, job)
            if returncode is None:
                if not job.is_executing:
                    watchdog.wait()
                if watchdog.is_hanging():
                    raise _end_hanging(job, run, watchdog)
                time.sleep(_POLL_S)
    if run.result.exists():  # written at the very end, after which the processes only exit
        if returncode != 0:
            text = f"a process ended with code {returncode} after everything was saved; its output is in {run.log}"
            on_event({"event": "note", "text": text})
        return
    if returncode == 0 and num_nodes > 1:
        return  # on several nodes without a shared folder, only one has the result
    if asked.count > 1:
        raise _stopped_at_once(run)
    raise explain_failure(returncode, run, was_out_of_memory=num_out_of_memory_kills() > kills)


def _handle(event: dict[str, Any], on_event: EventHandler, job: Job) -> None:
    if on_event(event):
        job.interrupt()


@dataclass
class Watchdog:
    """Measures how long steps take, and detects a step that takes too long."""

    limit_minutes: float | None
    steps_s: list[float] = field(default_factory=list)
    _last_step: float | None = None
    _last_sign: float = 0.0

    def see(self, event: dict[str, Any]) -> None:
        """Record an event. Between steps, evaluations send `alive`. The time between `saving` and `saved` is not
        limited, and the next step is timed from `saved`."""
        now, kind = time.monotonic(), event["event"]
        if kind == "step":
            if self._last_step is not None:
                self.steps_s.append(now - self._last_step)
            self._last_step = self._last_sign = now
        elif kind == "alive":
            self._last_sign = now
        elif kind == "saved":
            self._last_step = self._last_sign = now
        elif kind in ("stage", "saving"):
            self.wait()

    def wait(self) -> None:
        """Expect nothing until the next step."""
        self._last_step = None

    @property
    def silent_s(self) -> float:
        """Seconds since the last event; 0 outside of training's steps."""
        return 0.0 if self._last_step is None else time.monotonic() - self._last_sign

    @property
    def limit_s(self) -> float:
        """Seconds without an event after which the run counts as hanging. The first three steps set the time of a
        step."""
        if self.limit_minutes is None or len(self.steps_s) < 3:
            return float("inf")
        return max(60 * self.limit_minutes, _MEDIANS * statistics.median(self.steps_s))

    def is_hanging(self) -> bool:
        """Whether the run counts as hanging."""
        return self.silent_s > self.limit_s


def _end_hanging(job: Job, run: RunDirectory, watchdog: Watchdog) -> RunError:
    silent_s, median_s = watchdog.silent_s, statistics.median(watchdog.steps_s)
    where = dump_stacks(run)
    job.kill()
    while job.poll() is None:
        time.sleep(_POLL_S)
    return RunError.of(
        "T612",
        f"the run hung: no step for {silent_s:.0f} s, although one takes {median_s:.1f} s",
        why="; ".join(where) or "no process of this machine answered",
        fix=f"the stacks of all threads are in {run.ranks}/*/stacks.txt; run it again, or with `--retries 3`, and it "
        "resumes from its last checkpoint",
    )


@dataclass
class Asked:
    """How many signals have asked to stop."""

    count: int = 0


@contextlib.contextmanager
def forwarded_signals(job: Stoppable) -> Iterator[Asked]:
    """The first SIGINT or SIGTERM asks the workers to stop after their step, the second ends them at once, if they obey
    it."""
    asked = Asked()

    def forward(number: int, frame: FrameType | None) -> None:
        if asked.count == 0:
            asked.count = 1
            job.interrupt()
        elif job.obeys_second_signal:
            asked.count += 1
            job.kill()

    with handled_signals(forward):
        yield asked


@contextlib.contextmanager
def handled_signals(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle SIGINT and SIGTERM, and restore their handlers. Only the main thread can handle signals; a caller in
    another thread handles them itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stopped_at_once(run: RunDirectory) -> Interrupted:
    return Interrupted.of(
        "I130",
        "the run was stopped at once",
        why=f"by a second signal; {_where_it_resumes(run)}",
        fix="give the same command again",
    )


def explain_failure(returncode: int, run: RunDirectory, *, was_out_of_memory: bool = False) -> Exception:
    """The error for a job that failed: the one that its first failing process reported, else what ended the process."""
    failure, rank = first_failure(run)
    codes = [finding["code"] for finding in failure["findings"]] if failure else []
    was_killed = returncode < 0 and -returncode not in (signal.SIGINT, signal.SIGTERM)
    if failure and codes and not ((was_killed or was_out_of_memory) and may_be_consequence(codes[0])):
        findings = [Finding.from_json(plain) for plain in failure["findings"]]
        # The code of the finding, not of the process: torchrun turns every exit code of its workers into 1.
        return _class_of(findings[0].code)(*findings)
    if was_out_of_memory:
        return RunError.of(
            "T603",
            "the system ended the run because memory ran out",
            why=f"the kernel killed {_who(rank, run)}",
            fix=less_memory_fix(run),
        )
    if shutil.disk_usage(run.path).free < _NO_SPACE_BYTES:
        return RunError.of(
            "T602",
            f"no space left while writing to {run.path}",
            why=f"the worker ended with code {returncode} and had no space to write the reason",
            fix="free some space and run again; " + _where_it_resumes(run),
        )
    if returncode < 0:  # when one of several processes is killed, the others fail because of it
        return _killed(-returncode, run, _rank_that_died(run))
    if not failure and _missed_one_another(run):
        return RunError.of(
            LOST_EACH_OTHER,
            "the nodes could not connect to one another",
            why="the rendezvous does not answer, or not all nodes connected to it in time",
            fix=f"start the command on every node, with the same `--rendezvous`, whose port the first one must be "
            f"reached at; torchrun's own words are in {run.log}",
        )
    if failure:
        return WorkerBug(f"{failure.get('bug')} on {_who(rank, run)}; see {run.log}")
    return WorkerBug(f"the worker ended with code {returncode}; see {run.log}")


def _rank_that_died(run: RunDirectory) -> int | None:
    """The rank that torchrun's last report names as the first to fail, or None without a report."""
    died = _CHILD_FAILED.search(_read_log(run.log).rpartition("Root Cause")[2])
    return int(died[1]) if died else None


def _collective_timeout(run: RunDirectory) -> str | None:
    """What NCCL's watchdog printed before it ended a process, or None if it did not."""
    for rank in known_ranks(run):
        found = _NCCL_TIMEOUT.search(_read_log(log_path(run, rank)))
        if found:
            return found[1]
    return None


def _missed_one_another(run: RunDirectory) -> bool:
    return _NOT_MET.search(_read_log(run.log).rpartition("Traceback")[2]) is not None


def _read_log(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def is_transient(error: Exception) -> bool:
    """Whether starting the same job again may help. It does not if the loss diverged or memory or disk is too small."""
    return isinstance(error, WorkerBug) or (isinstance(error, RunError) and error.findings[0].code in _TRANSIENT)


def _class_of(code: str) -> type[DpoRecipeError]:
    return Interrupted if code.startswith("I") else RunError if code.startswith("T") else DpoRecipeError


def _who(rank: int | None, run: RunDirectory) -> str:
    if rank is None or len(known_ranks(run)) < 2:
        return "the worker"
    step = last_step(run, rank)
    return f"rank {rank} after step {step}" if step is not None else f"rank {rank} before its first step"


def _where_it_resumes(run: RunDirectory) -> str:
    if run.gives_answers_only:
        return "the answers so far are kept, and the same command generates the others"
    checkpoints = run.shared_run.checkpoints
    saved = any(newest_first(checkpoints))
    return f"it can resume from the last checkpoint in {checkpoints}" if saved else "it had no checkpoint yet"


def _killed(number: int, run: RunDirectory, rank: int | None) -> RunError | Interrupted:
    name = signal.Signals(number).name
    if number in (signal.SIGINT, signal.SIGTERM):
        return Interrupted.of(
            "I101" if any(newest_first(run.shared_run.checkpoints)) else "I130",
            "the run was interrupted",
            why=f"{name} came before the worker was ready",
            fix="give the same command again",
        )
    if number == signal.SIGKILL:
        return RunError.of(
            "T605",
            f"{_who(rank, run)} was killed (SIGKILL)",
            why="by a person, or by the system because memory ran out; " + _where_it_resumes(run),
            fix=f"give the same command again. When memory is short: {less_memory_fix(run)}",
        )
    waited = _collective_timeout(run)
    if waited is not None:
        return RunError.of(
            LOST_EACH_OTHER,
            "the processes waited for one another until the timeout",
            why=f"NCCL gave up: {waited}",
            fix="find the process that stopped first in ranks/*/run.log, and check the network between the nodes; "
            "if a stage only takes long, raise `launch.timeout_minutes`",
        )
    log = log_path(run, rank or 0)
    where = crashed_in(_read_log(log))
    return RunError.of(
        "T605",
        f"{_who(rank, run)} died of {name}",
        why=f"a library crashed{f' in {where}' if where else ''}; the last output is in {log}",
        fix="report it with this file; `--set hardware.device=cpu` shows whether the GPU's driver is the cause",
    )
