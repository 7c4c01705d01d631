"""One run of a trial of a sweep: its values, its recipe and its metric."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from dpo_recipes.formats import finite
from dpo_recipes.jobs.directory import SweepDirectory
from dpo_recipes.jobs.job_run import JobRun
from dpo_recipes.objectives.metric import Metric
from dpo_recipes.recipe.trials import Trial, chosen_trial, compose_trial, expand, seed_of_trial
from dpo_recipes.recipe.validate import Validated, validate_composed
from dpo_recipes.run_dir import read_json_lines, write_json
from dpo_recipes.run_result import read_result


@dataclass(frozen=True)
class TrialRun(JobRun):
    """A run of a trial with one seed."""

    sweep: SweepDirectory
    number: int
    """That of its trial."""
    given: Trial | None
    """The trial, or None if its values are chosen when it starts."""
    seed_index: int
    validated: Validated
    """The recipe of the sweep."""

    @property
    def name(self) -> str:
        """The name of its files: the trial's number, and that of the seed if there are several."""
        return f"{self.number:03}" + (f"-{self.seed_index + 1}" if self.has_seeds else "")

    @property
    def folder(self) -> Path:
        """That of the trials."""
        return self.sweep.runs

    @property
    def trial(self) -> Trial:
        """The trial. Only if it has its values."""
        trial = self.find_trial()
        assert trial is not None, "its values are chosen when it starts"
        return trial

    def find_trial(self) -> Trial | None:
        """The trial, or None if its values have not been chosen yet."""
        sweep = self.validated.recipe.sweep
        if self.given is not None or sweep is None:
            return self.given
        chosen = self.chosen()
        return None if chosen is None else chosen_trial(sweep, self.number, chosen)

    def chosen(self) -> dict[str, int | float] | None:
        """What was chosen for each setting of the trial, as `chosen_trial` takes it; None before it was."""
        try:
            return json.loads(self._values.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def choose(self, chosen: dict[str, int | float]) -> None:
        """Record the values of the trial, as `chosen_trial` takes them, for all of its runs."""
        write_json(self._values, chosen)

    @property
    def has_seeds(self) -> bool:
        """Whether the trial has several runs with different seeds."""
        sweep = self.validated.recipe.sweep
        return sweep is not None and sweep.seeds > 1

    @property
    def seed(self) -> int:
        """`training.seed` of the run."""
        return seed_of_trial(self.validated.composed, self.validated.recipe, self.trial, self.seed_index)

    def compose(self) -> Validated:
        """The recipe of the run. Raises `RecipeError`."""
        recipe = self.validated.recipe
        return validate_composed(compose_trial(self.validated.composed, recipe, self.trial, self.seed_index))

    def value(self, metric: Metric) -> float | None:
        """The metric on the held-out rows; None if the run has not finished, or if it is not finite."""
        if self.state != "finished":
            return None
        return finite(read_result(self.run.shared_run.result).metrics.get(f"eval_{metric.key}"))

    def prune(self, reason: str) -> None:
        """Record that the run was ended because it was worse than others."""
        self.end({"code": None, "reason": reason, "text": reason, "is_transient": False}, is_pruned=True)

    def evaluations(self, metric: Metric) -> list[float]:
        """The metric of each evaluation during training, in their order; those that are not finite are infinite, on the
        worse side."""
        worst = -math.inf if metric.higher_is_better else math.inf
        rows = read_json_lines(self.run.shared_run.metrics)
        values = [row[f"eval_{metric.key}"] for row in rows if f"eval_{metric.key}" in row]
        return [worst if finite(value) is None else value for value in values]

    @property
    def _values(self) -> Path:
        return self.folder / f"{self.number:03}.values.json"


def runs_of(sweep: SweepDirectory, validated: Validated) -> list[TrialRun]:
    """The runs of all trials of a recipe, in their order: first all trials with the first seed, then with the second
    one, so that a sweep that ends early has compared all trials."""
    section = validated.recipe.sweep
    assert section is not None, "the recipe has a sweep"
    return [
        TrialRun(sweep, trial.number, None if section.tpe else trial, index, validated)
        for index in range(section.seeds)
        for trial in expand(validated.recipe)
    ]
