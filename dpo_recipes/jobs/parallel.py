"""Processes of this command that each execute runs of one job, at the same time.

Each claims runs like another command would. It is the parent of the workers that it starts, so that signals, time
limits and failures of a run are handled as they are elsewhere.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any

from dpo_recipes.errors import DpoRecipeError, Finding, Interrupted, RunError
from dpo_recipes.jobs.job_run import JobRun
from dpo_recipes.jobs.work import Executor, work
from dpo_recipes.launch.ending import PARENT, end_with_parent
from dpo_recipes.supervise import EventHandler, handled_signals
from dpo_recipes.workflow import RunOptions

_BEGIN = ("trial", "chain_step")
"""The events with which a run begins."""


def work_in_parallel(
    runs: Sequence[JobRun],
    executor: Executor,
    on_event: EventHandler,
    options: RunOptions,
    environments: Sequence[dict[str, str]],
) -> None:
    """Execute runs in one process for each environment, until all have ended. Each event of a run has its name as `of`.

    If a process is killed, the others execute its run, or it is left. Raises `Interrupted` after a signal, and the
    error that ended a process, after which the others are stopped.
    """
    context = multiprocessing.get_context("spawn")
    processes: list[SpawnProcess] = []
    connections: list[Connection] = []
    for environment in environments:
        ours, theirs = context.Pipe(duplex=False)
        arguments = (theirs, list(runs), executor, options, environment, os.getpid())
        process = context.Process(target=_execute, args=arguments)
        process.start()
        theirs.close()
        processes.append(process)
        connections.append(ours)
    errors: list[DpoRecipeError] = []
    with _forwarded(processes) as asked:
        while connections:
            for connection in wait(connections, timeout=0.5):
                assert isinstance(connection, Connection)
                try:
                    event = connection.recv()
                except EOFError:  # the process has ended
                    connections.remove(connection)
                    continue
                if event["event"] == "ended":
                    errors.append(_error(event["findings"]))
                    _interrupt(processes)
                else:
                    on_event(event)
        for process in processes:
            process.join()
    if errors:  # an error of the machine explains more than the interruptions that followed
        raise next((error for error in errors if not isinstance(error, Interrupted)), errors[0])
    if asked:
        raise Interrupted.of("I101", "the job was interrupted", why="by a signal", fix="run the recipe again")


def _execute(
    connection: Connection,
    runs: list[JobRun],
    executor: Executor,
    options: RunOptions,
    environment: dict[str, str],
    parent: int,
) -> None:
    """Execute runs in a process of their own, and send its events."""
    os.setsid()  # Ctrl-C in a terminal comes through the parent, and only once
    os.environ.update({**environment, PARENT: str(parent)})
    end_with_parent()
    name = ""

    def send(event: dict[str, Any]) -> None:
        nonlocal name
        if event["event"] in _BEGIN:
            name = event["name"]
        with contextlib.suppress(OSError):  # the command was killed; a signal follows
            connection.send({**event, "of": name})

    try:
        work(runs, executor, send, options)
    except DpoRecipeError as error:
        send({"event": "ended", "findings": [finding.to_json() for finding in error.findings]})
    except KeyboardInterrupt:
        stopped = Finding("I101", "the job was interrupted", why="between two runs", fix="run the recipe again")
        send({"event": "ended", "findings": [stopped.to_json()]})


def _error(findings: list[dict[str, Any]]) -> DpoRecipeError:
    found = [Finding.from_json(plain) for plain in findings]
    return (Interrupted if found[0].code.startswith("I") else RunError)(*found)


@contextlib.contextmanager
def _forwarded(processes: Sequence[SpawnProcess]) -> Iterator[list[int]]:
    """Pass SIGINT and SIGTERM on to the processes. Yields the signals that came."""
    asked: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        _interrupt(processes)

    with handled_signals(forward):
        yield asked


def _interrupt(processes: Sequence[SpawnProcess]) -> None:
    for process in processes:
        if process.is_alive() and process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGINT)
