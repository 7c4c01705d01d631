"""Works on a job with several runs: claims one run after the other until all have ended.

Several processes can do this in one directory. One that finds nothing left to claim waits for the others, because a run
whose process is killed is free again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from dpo_recipes.errors import DpoRecipeError, Interrupted
from dpo_recipes.jobs.job_run import JobRun
from dpo_recipes.resume import is_running, wait_for_workers
from dpo_recipes.supervise import EventHandler, WorkerBug
from dpo_recipes.workflow import RunOptions

_LOOK_EVERY_S = 1.0
_OF_THE_MACHINE = ("T601", "T602", "T615")
"""Errors that say nothing about a run: the folder cannot be written to, or another process works in it."""


class Executor(Protocol):
    """How one kind of job executes a run."""

    def is_late(self, runs: Sequence[Any]) -> bool:
        """Whether no further run is to be started."""
        ...

    def execute(self, run: Any, runs: Sequence[Any], on_event: EventHandler, options: RunOptions) -> None:
        """Execute a run that this process has claimed, and record why it failed."""
        ...


def work(runs: Sequence[JobRun], executor: Executor, on_event: EventHandler, options: RunOptions) -> None:
    """Execute each unfinished run that no other command works on, when it is ready. Returns when all have ended or can
    never start, or when it is late and none is being executed."""
    while not have_ended(runs, executor):
        if executor.is_late(runs) or not any(
            run.is_ready and claim_and_execute(run, runs, executor, on_event, options) for run in _left(runs)
        ):
            time.sleep(_LOOK_EVERY_S)


def have_ended(runs: Sequence[JobRun], executor: Executor) -> bool:
    """Whether each run has ended or can never start, or it is late and none is being executed."""
    left = _left(runs)
    return not left or (executor.is_late(runs) and not any(run.is_claimed for run in left))


def _left(runs: Sequence[JobRun]) -> list[JobRun]:
    return [run for run in runs if not run.is_blocked and run.state == "unfinished"]


def claim_and_execute(
    run: JobRun, runs: Sequence[JobRun], executor: Executor, on_event: EventHandler, options: RunOptions
) -> bool:
    """Execute a run. False if another process works on it."""
    with run.claimed() as is_ours:
        if not is_ours:
            return False
        wait_for_workers(run.run, partial(_note, on_event))
        if is_running(run.run):  # elsewhere, as a job of SLURM whose command has ended
            return False
        if run.state == "unfinished":  # else it ended meanwhile
            executor.execute(run, runs, on_event, options)
        return True


def record_failure(run: JobRun, execute: Callable[[], object]) -> None:
    """Execute one attempt of a run, and record the error with which it fails. Raises `Interrupted`, and errors that
    another run would have too."""
    try:
        with run.attempt():
            execute()
    except (DpoRecipeError, WorkerBug) as error:
        if isinstance(error, Interrupted) or _is_of_the_machine(error):
            raise
        run.fail(error)


def _note(on_event: EventHandler, text: str) -> None:
    on_event({"event": "note", "text": text})


def _is_of_the_machine(error: DpoRecipeError | WorkerBug) -> bool:
    return isinstance(error, DpoRecipeError) and error.findings[0].code in _OF_THE_MACHINE
