"""What all trackers have in common."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal

from dpo_recipes.recipe.dump import plain_recipe
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.resume import leaves

Outcome = Literal["finished", "interrupted", "failed"]
"""How a process of the run ended. An interrupted run can be resumed."""
Row = Mapping[str, float]
"""The numbers of a row of metrics.jsonl, without its step."""


@dataclass(frozen=True)
class TrackedRun:
    """What trackers know about a run."""

    recipe: Recipe
    directory: Path
    """The run directory."""
    key: str
    """16 hexadecimal digits that no other run has, the same after a resume."""
    first_step: int = 0
    """The step of the checkpoint from which training resumes."""


@dataclass(frozen=True)
class Tracking:
    """The run as a tracker stores it."""

    id: str | None = None
    """What the tracker needs to continue its run after a resume."""
    url: str | None = None
    """An address to look at it."""


class Tracker:
    """One tracker. All calls come from the same thread, and may raise anything: `Trackers` handles it."""

    library: ClassVar[str]
    """The module to import."""
    variables: ClassVar[Mapping[str, str]] = {}
    """The tracker's own environment variables for `project`, `run_name` and `group`, used where the recipe has none."""
    replaces_rows: ClassVar[bool] = False
    """Whether the rows of a resumed run replace those of the same steps that an earlier process has stored."""

    def __init__(self, run: TrackedRun, earlier: Tracking | None = None) -> None:
        self.run = run
        self.earlier = earlier
        """The run that an earlier process has stored, or None."""

    def start(self) -> Tracking:
        """Begin a run, or continue the earlier one."""
        return Tracking()

    def last_step(self) -> int | None:
        """The last step of which the run that is continued has a row, or -1 if it has none; None if the library does
        not tell."""
        return None

    def log(self, row: Row, step: int) -> None:
        """Store a row of metrics."""

    def attach(self, label: str, files: Sequence[Path]) -> None:
        """Store files under a common label, where the tracker keeps files."""

    def store_artifact(self, library_run: Any, label: str, files: Sequence[Path]) -> None:
        """Store files as one artifact of a run of W&B, or of trackio, which has the same functions."""
        artifact = self.load().Artifact(f"{label}-{self.run.key}", type=label)
        for file in files:
            artifact.add_file(str(file), name=file.name)
        library_run.log_artifact(artifact)

    def alert(self, title: str, text: str) -> None:
        """Send an alert, where the tracker has alerts."""

    def finish(self, outcome: Outcome) -> None:
        """Send the rows that have not been sent yet, and end the tracker's run."""

    def load(self, module: str | None = None) -> Any:
        """The tracker's library, or a module of it."""
        return import_module(module or self.library)

    @property
    def project(self) -> str:
        """The project."""
        return self._named("project") or self.run.recipe.name

    @property
    def name(self) -> str:
        """The name of the run. By default it is unique and leads to the run directory."""
        return self._named("run_name") or f"{self.run.recipe.name}-{self.run.directory.name}"

    @property
    def group(self) -> str | None:
        """The group, or None."""
        return self._named("group")

    @property
    def config(self) -> dict[str, Any]:
        """All values of the recipe."""
        return plain_recipe(self.run.recipe)

    @property
    def flat_config(self) -> dict[str, Any]:
        """All values of the recipe by their paths, such as `data.train.0.path`."""
        return {path.replace("[", ".").replace("]", ""): value for path, value in leaves(self.config)}

    def _named(self, what: str) -> str | None:
        return getattr(self.run.recipe.tracking, what) or os.environ.get(self.variables.get(what, "")) or None


def by_split(row: Row) -> dict[str, float]:
    """The names under which trackers show metrics: `train/loss`, `eval/loss`, `test/loss`, as transformers 5.24 does in
    `rewrite_logs`."""
    return {_split(name): value for name, value in row.items()}


def _split(name: str) -> str:
    for split in ("eval", "test"):
        if name.startswith(f"{split}_"):
            return f"{split}/{name.removeprefix(f'{split}_')}"
    return f"train/{name}"
