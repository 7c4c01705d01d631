"""Several worker processes through torch's own launcher, on one machine or on several with a rendezvous."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from dpo_recipes.errors import RecipeError
from dpo_recipes.launch.job import Launcher, LaunchRequest, ProcessJob, request_arguments, spawn
from dpo_recipes.launch.local import worker_environment
from dpo_recipes.launch.ranks import signal_processes
from dpo_recipes.run_dir import RunDirectory

_EXIT_CODE = re.compile(r"^\s*exitcode\s*:\s*(-?\d+)", re.MULTILINE)


class TorchrunLauncher(Launcher):
    """torch's own launcher. Its workers record their ids in the run directory."""

    def command(self, request: LaunchRequest) -> list[str]:
        """torchrun with the worker, the same on every node. Raises `RecipeError` R347 if several nodes have no
        rendezvous."""
        per_node = request.num_processes // request.num_nodes
        torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={per_node}"]
        worker = request_arguments(request)
        return [*torchrun, *_meeting(request), *worker]

    def start(self, request: LaunchRequest) -> TorchrunJob:
        """Start the launcher in a session of its own."""
        begins_at = request.run.log.stat().st_size if request.run.log.exists() else 0
        process = spawn(request.run, self.command(request), environment(request))
        return TorchrunJob(process, request.run, begins_at)


def _meeting(request: LaunchRequest) -> list[str]:
    if request.num_nodes == 1:
        return ["--standalone"]
    return [
        f"--nnodes={request.num_nodes}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={meeting_place(request)}",
        f"--rdzv-id={request.recipe.name}",  # the same on nodes that have run directories of their own
    ]


def meeting_place(request: LaunchRequest) -> str:
    """HOST:PORT of the rendezvous of several nodes. Raises `RecipeError` R347 if it is unknown or malformed."""
    place = request.rendezvous
    if not place and os.environ.get("MASTER_ADDR"):
        place = f"{os.environ['MASTER_ADDR']}:{os.environ.get('MASTER_PORT', '29500')}"
    if place:
        host, _, port = place.rpartition(":")
        if host and port.isdecimal() and 0 < int(port) < 2**16:
            return place
        raise RecipeError.of(
            "R347",
            f"`{place}` is not a valid rendezvous for {request.num_nodes} nodes",
            why="it must be HOST:PORT with a port from 1 to 65535",
            fix="give `--rendezvous`, or MASTER_ADDR and MASTER_PORT, the first node's name and a free port",
        )
    raise RecipeError.of(
        "R347",
        f"{request.num_nodes} nodes need a rendezvous",
        why="a recipe names no machines, so that it can run on any",
        fix="add `--rendezvous HOST:PORT` with the first node's name and a free port, or set MASTER_ADDR and "
        "MASTER_PORT",
    )


def environment(request: LaunchRequest) -> dict[str, str]:
    """A worker's environment; the machine's cores are divided among its processes."""
    return worker_environment(request.recipe, request.num_processes // request.num_nodes)


class TorchrunJob(ProcessJob):
    """The torchrun agent and its workers."""

    def __init__(self, process: subprocess.Popen[bytes], run: RunDirectory, log_begins_at: int) -> None:
        super().__init__(process)
        self._run = run
        self._log_begins_at = log_begins_at
        self._was_abandoned = False

    def poll(self) -> int | None:
        """The exit code of the worker that failed first, negative for a signal, or None while the agent runs."""
        code = super().poll()
        if self._was_abandoned and code is not None:
            return -signal.SIGINT
        if code is None or code <= 0:
            return code
        return root_cause(self._run.log, self._log_begins_at) or code

    def interrupt(self) -> None:
        """Send SIGINT to the workers of this machine. The agent gets none: it would kill them after 30 seconds.

        Before the workers exist there is nothing to lose, and the agent is killed.
        """
        if not signal_processes(self._run, signal.SIGINT):
            self._was_abandoned = True
            self.kill()

    def kill(self) -> None:
        """Kill the agent and the workers. torch 2.13 starts these in sessions of their own, so they would keep
        running."""
        super().kill()
        signal_processes(self._run, signal.SIGKILL)


def root_cause(log: Path, begins_at: int = 0) -> int | None:
    """The exit code of the first failure in the agent's report at the end of run.log, or None without a report."""
    with log.open("rb") as file:
        file.seek(begins_at)
        _, found, report = file.read().decode("utf-8", "replace").rpartition("Root Cause")
    match = _EXIT_CODE.search(report) if found else None
    return int(match[1]) if match else None


LAUNCHER = TorchrunLauncher()
