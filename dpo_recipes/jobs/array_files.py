"""The files by which a command and the tasks of a SLURM array know of each other, in the directory of a sweep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo_recipes.errors import DpoRecipeError, Finding, RunError
from dpo_recipes.jobs.directory import SweepDirectory
from dpo_recipes.launch.choose import LaunchFlags
from dpo_recipes.recipe.stored import from_plain, to_plain
from dpo_recipes.recipe.validate import Validated, validate_composed
from dpo_recipes.run_dir import write_json
from dpo_recipes.workflow import RunOptions


@dataclass(frozen=True)
class ArrayFiles:
    """`SWEEP/launch/`."""

    sweep: SweepDirectory

    @property
    def folder(self) -> Path:
        """All of these files."""
        return self.sweep.path / "launch"

    @property
    def script(self) -> Path:
        """The script of the array."""
        return self.folder / "job.sbatch"

    @property
    def number(self) -> Path:
        """The number of the array that was submitted last."""
        return self.folder / "slurm_job"

    @property
    def lock(self) -> Path:
        """The lock of the command that submits the array."""
        return self.folder / "array.lock"

    def stop(self, number: int) -> Path:
        """A file whose presence tells the scripts of an array's tasks that a person has stopped it."""
        return self.folder / f"stop.{number}"

    def log(self, task: int) -> Path:
        """The output of a task. That of its workers is in the `run.log` of its run."""
        return self.folder / f"task.{task}.log"

    def write_job(self, validated: Validated, options: RunOptions, tasks: Sequence[int]) -> None:
        """Write what the tasks execute. A task that starts later reads it anew."""
        flags = options.flags
        plain = {
            "tasks": list(tasks),
            "recipe": to_plain(validated.composed),
            "trust_remote_code": options.trust_remote_code,
            "reward_functions": options.reward_functions,
            "retries": options.retries,
            "num_processes": flags.num_processes,
            "num_nodes": flags.num_nodes,
        }
        write_json(self.folder / "array.json", plain)

    def read_job(self) -> tuple[Validated, RunOptions]:
        """The recipe of the sweep, and how its runs are executed."""
        plain = self._read_job()
        flags = LaunchFlags(plain["num_processes"], plain["num_nodes"])
        functions = tuple(plain["reward_functions"])
        options = RunOptions(plain["trust_remote_code"], plain["retries"], flags, reward_functions=functions)
        return validate_composed(from_plain(plain["recipe"])), options

    def read_tasks(self) -> list[int]:
        """The tasks that were submitted last: the indices of their runs."""
        return self._read_job()["tasks"]

    def _read_job(self) -> dict[str, Any]:
        return json.loads((self.folder / "array.json").read_text(encoding="utf-8"))

    def write_error(self, task: int, error: DpoRecipeError) -> None:
        """Record an error of a task that says nothing about its trial."""
        write_json(self._error(task), [finding.to_json() for finding in error.findings])

    def read_error(self, task: int) -> RunError | None:
        """The error that a task has recorded, or None."""
        try:
            findings = json.loads(self._error(task).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return RunError(*map(Finding.from_json, findings))

    def forget_error(self, task: int) -> None:
        """Remove what an earlier task has recorded."""
        self._error(task).unlink(missing_ok=True)

    def _error(self, task: int) -> Path:
        return self.folder / f"error.{task}.json"
