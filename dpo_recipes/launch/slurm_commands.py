"""Calls SLURM's own commands."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path

from dpo_recipes.errors import RunError
from dpo_recipes.launch.ending import PARENT
from dpo_recipes.launch.slurm_errors import submission_refused
from dpo_recipes.launch.slurm_settings import SlurmSettings

QUERY_SLURM_S = (1.0, 15.0)
"""SLURM is queried after a second, then less and less often while nothing changes, to spare its controller."""
_COMMANDS = ("sbatch", "scontrol", "scancel")


class QueryTimes:
    """When SLURM is queried."""

    def __init__(self) -> None:
        self.query_at_once()

    @property
    def is_due(self) -> bool:
        """Whether it is time for the next query."""
        return time.monotonic() >= self._at

    def queried(self) -> None:
        """Wait longer for the next query than for this one."""
        self._at = time.monotonic() + self._after_s
        self._after_s = min(self._after_s * 1.5, QUERY_SLURM_S[1])

    def query_often(self) -> None:
        """Query often again, because something has changed."""
        self._after_s = QUERY_SLURM_S[0]

    def query_at_once(self) -> None:
        """Query now, and often again."""
        self._at = 0.0
        self.query_often()


def call(*command: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """The result of a command. One that cannot be started, or takes too long, has failed with the reason in stderr."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL)
    except (subprocess.TimeoutExpired, OSError) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))


def show_job(number: int | str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """What `scontrol` prints about a job, or about the tasks of an array, a line for each."""
    return call("scontrol", "--oneliner", "show", "job", str(number), timeout_s=timeout_s)


def find_job(script: Path, number_path: Path) -> tuple[int, str] | None:
    """The number in a file and what SLURM says about the job that was submitted from this script; None if there is none
    or SLURM no longer knows it.

    Raises `RunError` T631 if SLURM does not answer.
    """
    try:
        number = int(number_path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    if shutil.which("scontrol") is None:
        return None
    done = show_job(number)
    if done.returncode and "Invalid job id" not in done.stderr:
        raise submission_refused(done.stderr.strip(), script)
    # Job numbers start again with a new cluster, so this may be the job of another run.
    if "JobState=" not in done.stdout or f"Command={script}" not in done.stdout:
        return None
    return number, done.stdout


def sbatch_command(script: Path, settings: SlurmSettings) -> list[str]:
    """The command that submits a script."""
    # Options are also given as arguments: they take precedence over SBATCH_ variables, lines of the script do not.
    return ["sbatch", "--parsable", *settings.arguments(), str(script)]


def submit(script: Path, settings: SlurmSettings) -> int:
    """Submit a script, and return the job's number. Raises `RunError` T630 and T631."""
    _check_commands(script)
    # A job gets this process's variables, but no worker of it can follow a process of this machine.
    done = call("env", f"--unset={PARENT}", *sbatch_command(script, settings))
    number = re.fullmatch(r"(\d+)(;\S*)?", done.stdout.strip())
    if done.returncode or number is None:
        raise submission_refused(done.stderr.strip() or done.stdout.strip(), script)
    return int(number[1])


def _check_commands(script: Path) -> None:
    for name in _COMMANDS:
        if shutil.which(name) is None:
            raise RunError.of(
                "T630",
                f"there is no `{name}` on this machine",
                why="jobs are submitted with SLURM's own commands, which are installed on a cluster's login nodes",
                fix=f"log in to the cluster and run this there, or copy {script} to it",
            )
