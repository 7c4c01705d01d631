"""What all launchers have in common: the order that they execute, and the job that can be followed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from dpo_recipes.launch.parent import PARENT
from dpo_recipes.launch.slurm_settings import SlurmSettings
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.run_dir import RunDirectory


def _ignore(text: str) -> None:
    pass


@dataclass(frozen=True)
class LaunchRequest:
    """A prepared run directory that is to be executed."""

    recipe: Recipe
    run: RunDirectory
    num_processes: int = 1
    """The total over all nodes."""
    num_nodes: int = 1
    trust_remote_code: bool = False
    rendezvous: str | None = None
    """HOST:PORT of the first node, the rendezvous of several nodes."""
    slurm_settings: SlurmSettings = field(default_factory=SlurmSettings)
    """Settings of the site where the job is to run."""
    on_message: Callable[[str], None] = _ignore
    """Receives messages for the person before a worker can send any, such as why a job waits."""


def worker_arguments(request: LaunchRequest) -> list[str]:
    """The arguments that execute the order, for a Python interpreter or a launcher such as torchrun."""
    flags = ["--trust-remote-code"] if request.trust_remote_code else []
    return ["-m", "dpo_recipes.worker", str(request.run.path), *flags]


def spawn(request: LaunchRequest, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, so that a terminal's Ctrl-C reaches it only through the parent. Its
    output is appended to run.log. Its workers end with this process."""
    with request.run.log.open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**environment, PARENT: str(os.getpid())},
            start_new_session=True,
        )


class Job(Protocol):
    """Worker processes that have been started, on this machine or elsewhere."""

    def poll(self) -> int | None:
        """Their exit code, negative for a signal, or None while they run."""
        ...

    @property
    def is_executing(self) -> bool:
        """Whether they are running, and neither queued nor suspended."""
        ...

    def interrupt(self) -> None:
        """Ask them to finish their step, write a checkpoint and end."""
        ...

    def kill(self) -> None:
        """End them now."""
        ...


class ProcessJob:
    """A process of this machine that leads a session of its own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def poll(self) -> int | None:
        """Its exit code, negative for a signal, or None while it runs."""
        return self._process.poll()

    @property
    def is_executing(self) -> bool:
        """It was started at once."""
        return True

    def interrupt(self) -> None:
        """Send it SIGINT."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """Kill it with all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
