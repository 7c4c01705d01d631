"""Sweeps whose runs are computed by a function instead of a model, for tests of everything around them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dpo_recipes.errors import Interrupted
from dpo_recipes.jobs import trial_executor, work
from dpo_recipes.jobs.sweep import FinishedSweep, run_sweep
from dpo_recipes.recipe.dump import dump_recipe
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.validate import Validated, validate
from dpo_recipes.run_dir import MODEL_FOLDER, RunDirectory
from dpo_recipes.run_result import RunResult

RECIPE = """\
schema: 1
name: job
model: {path: owner/model, adapter: {kind: lora}}
data:
  train: [{path: owner/pairs, limit: 100}]
  eval: {fraction: 0.1}
"""


@dataclass
class FakeRuns:
    """Replaces the execution of runs. `metrics` gives the metrics of a recipe, or raises the error of its run."""

    folder: Path
    metrics: Callable[[Recipe], dict[str, float]]
    evaluations: Callable[[Recipe], list[float]] = lambda recipe: []
    """The held-out losses of a recipe's evaluations during training."""
    executed: list[str] = field(default_factory=list)
    """The names of the runs' directories, in the order in which they were executed."""
    events: list[dict[str, Any]] = field(default_factory=list)

    def execute(self, validated: Validated, on_event: Any, options: Any = None, *, directory: RunDirectory) -> None:
        self.executed.append(directory.path.name)
        (directory.path / MODEL_FOLDER).mkdir(parents=True, exist_ok=True)
        directory.resolved_recipe.write_text(dump_recipe(validated.recipe), encoding="utf-8")
        for step, loss in enumerate(self.evaluations(validated.recipe), 1):
            row = {"eval_loss": loss}
            with directory.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **row}) + "\n")
            if on_event({"event": "evaluated", "step": step, "metrics": row}):
                raise Interrupted.of("I101", "the run was interrupted")
        metrics = self.metrics(validated.recipe)
        RunResult(status="finished", recipe=validated.recipe.name, metrics=metrics).write(directory.result)

    def validate(self, sweep: str, *overrides: str, recipe: str = RECIPE) -> Validated:
        path = self.folder / "job.yaml"
        path.write_text(recipe + sweep, encoding="utf-8")
        return validate(path, [f"output_dir={self.folder / 'runs'}", *overrides])

    def run(self, sweep: str, *overrides: str, resume: bool | None = None) -> FinishedSweep:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trial_executor, "run_recipe", self.execute)
            patch.setattr(work, "_LOOK_EVERY_S", 0.01)
            return run_sweep(self.validate(sweep, *overrides), self.events.append, resume=resume)

    @property
    def folders(self) -> list[Path]:
        """The directories of the sweeps."""
        return sorted(path for path in (self.folder / "runs" / "job").iterdir() if path.is_dir())
