"""What all launchers have in common: the request that they execute, their interface, and the job that they start."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from dpo_recipes.launch.ending import PARENT
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
    reward_functions: tuple[str, ...] = ()
    """The functions that the person has allowed as sources of rewards, as `/path/file.py:name`."""
    rendezvous: str | None = None
    """HOST:PORT of the first node, the rendezvous of several nodes."""
    slurm_settings: SlurmSettings = field(default_factory=SlurmSettings)
    """Settings of the site where the job is to run."""
    on_message: Callable[[str], None] = _ignore
    """Receives messages for the person before a worker can send any, such as why a job waits."""


def worker_arguments(run: RunDirectory, *, trust_remote_code: bool, reward_functions: Sequence[str] = ()) -> list[str]:
    """The arguments that execute a directory, for a Python interpreter or a launcher such as torchrun."""
    flags = ["--trust-remote-code"] if trust_remote_code else []
    flags += [word for function in reward_functions for word in ("--reward-function", function)]
    return ["-m", "dpo_recipes.worker", str(run.path), *flags]


def request_arguments(request: LaunchRequest) -> list[str]:
    """The same for a request."""
    allowed = {"trust_remote_code": request.trust_remote_code, "reward_functions": request.reward_functions}
    return worker_arguments(request.run, **allowed)


def spawn(run: RunDirectory, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, so that a terminal's Ctrl-C reaches it only through the parent. Its
    output is appended to run.log. Its workers end with this process."""
    with run.log.open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**environment, PARENT: str(os.getpid())},
            start_new_session=True,
        )


class Stoppable(Protocol):
    """Worker processes that can be stopped."""

    @property
    def obeys_second_signal(self) -> bool:
        """Whether a second signal to this process ends them at once. Not if signals come from a scheduler, which
        repeats them, and kills the workers itself when their time is over."""
        ...

    def interrupt(self) -> None:
        """Ask them to finish their step, write a checkpoint and end."""
        ...

    def kill(self) -> None:
        """End them now."""
        ...


class Job(Stoppable, Protocol):
    """Worker processes that have been started, on this machine or elsewhere."""

    def poll(self) -> int | None:
        """Their exit code, negative for a signal, or None while they run."""
        ...

    @property
    def is_executing(self) -> bool:
        """Whether they are running, and neither queued nor suspended."""
        ...


class Launcher:
    """A way to start the workers of a run. Subclasses override what differs from a launcher on this machine."""

    is_remote: ClassVar[bool] = False
    """Whether the workers start on machines whose devices cannot be counted here."""

    def num_gpus(self, recipe: Recipe) -> int | None:
        """The GPUs that a recipe may use on each node, or None if those of this machine count."""
        return None

    def checks_gpus(self, recipe: Recipe) -> bool:
        """Whether a node must have a GPU for each process, because a job cannot request more."""
        return True

    def command(self, request: LaunchRequest) -> list[str]:
        """The command that executes a prepared run directory. A person can run it too."""
        raise NotImplementedError

    def configurations(self, request: LaunchRequest) -> dict[str, dict[str, Any]]:
        """The files that `prepare` writes, by name."""
        return {}

    def prepare(self, request: LaunchRequest) -> None:
        """Write the files that the launcher reads into the run directory. Raises `RecipeError` if it cannot start the
        request."""

    def start(self, request: LaunchRequest) -> Job:
        """Start the workers."""
        raise NotImplementedError


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

    @property
    def obeys_second_signal(self) -> bool:
        """Signals come from a person."""
        return True

    def interrupt(self) -> None:
        """Send it SIGINT."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """Kill it with all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
