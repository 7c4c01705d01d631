"""Settings that a SLURM site requires of every job: partition, account, lines that prepare a shell.

They come from the person and the machine, never from a recipe: a shared recipe names no queue and executes nothing.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dpo_recipes.errors import RecipeError

OPTIONS_VARIABLE = "DPO_RECIPE_SLURM"
SETUP_VARIABLE = "DPO_RECIPE_SLURM_SETUP"

_KEY = re.compile(r"[a-z][a-z-]{0,63}")
# The characters of partition names, GRES, constraints, dates and mail addresses. Blanks, quotes, `#` and backslashes
# would change how SLURM splits a line of the script into options.
_VALUE = re.compile(r"[A-Za-z0-9_.,:;@%+=/&|*!()\[\]~-]{1,500}")
_OURS = {
    "array": "it follows from the number of runs",
    "chdir": "the run directory is given by its absolute path",
    "cpus-per-task": "write `launch.slurm.cpus_per_task`, or `--set` it",
    "error": "everything goes to run.log",
    "gpus-per-task": "each process must see all GPUs of its node: `launch.slurm.gpus_per_node`, or `--set` it",
    "gpus-per-node": "write `launch.slurm.gpus_per_node`, or `--set` it; a kind of GPU is `gres` or `constraint`",
    "input": "the workers read nothing",
    "job-name": "it is the recipe's name",
    "mem": "write `launch.slurm.memory`, or `--set` it",
    "no-requeue": "write `launch.slurm.requeue`, or `--set` it",
    "nodes": "write `launch.num_nodes`, or `--set` it",
    "ntasks": "write `launch.num_processes`, or `--set` it",
    "ntasks-per-node": "write `launch.num_processes`, or `--set` it",
    "open-mode": "run.log is always appended to",
    "output": "everything goes to run.log",
    "parsable": "the job's number is read from what sbatch prints",
    "requeue": "write `launch.slurm.requeue`, or `--set` it",
    "signal": "write `launch.slurm.checkpoint_seconds`, or `--set` it",
    "time": "write `launch.slurm.time_limit`, or `--set` it",
    "wait": "`dpo-recipe run` waits",
    "wrap": "the script is made from the recipe",
}


@dataclass(frozen=True)
class SlurmSettings:
    """Options for sbatch by their long names, with None as the value of a bare flag, and shell lines that run before
    the workers."""

    options: Mapping[str, str | None] = field(default_factory=dict)
    setup: str = ""

    def arguments(self) -> list[str]:
        """The options as arguments of sbatch."""
        return [f"--{key}" if value is None else f"--{key}={value}" for key, value in self.options.items()]


def read_slurm_settings(
    flags: Iterable[str] = (), setup_file: Path | None = None, environment: Mapping[str, str] = os.environ
) -> SlurmSettings:
    """The site's settings from flags `KEY=VALUE` and the environment; a flag takes precedence over the environment.

    Raises `RecipeError` U420 (not an option of sbatch, or one that may not be set here) and U421 (the setup file cannot
    be read).
    """
    options: dict[str, str | None] = {}
    for source, texts in ((OPTIONS_VARIABLE, _words(environment)), ("--slurm", flags)):
        options.update(_option(text, source) for text in texts)
    chosen = setup_file or (Path(path) if (path := environment.get(SETUP_VARIABLE)) else None)
    return SlurmSettings(options, _read_setup(chosen.expanduser()) if chosen else "")


def _words(environment: Mapping[str, str]) -> list[str]:
    text = environment.get(OPTIONS_VARIABLE, "")
    try:
        return shlex.split(text)
    except ValueError as error:
        raise _bad_option(text, OPTIONS_VARIABLE, str(error), "write it as `partition=gpu account=lab`") from error


def _option(text: str, source: str) -> tuple[str, str | None]:
    key, separator, value = text.removeprefix("--").partition("=")
    key = key.strip().replace("_", "-")
    if not _KEY.fullmatch(key):
        why = "it does not start with a long option of sbatch"
        raise _bad_option(text, source, why, "write KEY=VALUE, for example `partition=gpu`")
    if key in _OURS:
        raise _bad_option(text, source, f"`{key}` is set from the recipe", _OURS[key])
    if separator and not _VALUE.fullmatch(value):
        why = "a value may have letters, digits and the signs of queue names and addresses, but no blank or quote"
        raise _bad_option(text, source, why, "correct it, or write shell lines to a file for `--slurm-setup`")
    return key, value if separator else None


def _bad_option(text: str, source: str, why: str, fix: str) -> RecipeError:
    return RecipeError.of("U420", f"cannot use `{text}` of {source}", why=why, fix=fix)


def _read_setup(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError.of(
            "U421",
            f"cannot read the setup lines in {path}",
            why=getattr(error, "strerror", None) or str(error),
            fix=f"correct `--slurm-setup` or {SETUP_VARIABLE}",
        ) from error
