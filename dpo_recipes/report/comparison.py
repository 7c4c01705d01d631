"""Compares finished runs: by a metric, by the settings that differ, and by what their plans predicted.

Runs that differ only in `training.seed` are one configuration, which is ranked by their mean.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from dpo_recipes.finished_run import FinishedRun
from dpo_recipes.formats import finite, format_count
from dpo_recipes.objectives.base import Objective
from dpo_recipes.objectives.metric import LOSS, Metric
from dpo_recipes.recipe.dump import plain_recipe
from dpo_recipes.report.metric_choice import choose_metric
from dpo_recipes.report.plan_rows import PlanFigures, read_plan_figures
from dpo_recipes.report.table import Table
from dpo_recipes.resume import leaves
from dpo_recipes.significance import Spread, difference_interval, pooled_spread

_NOT_COMPARED = ("name", "summary", "output_dir", "tracking")
"""Parts of a recipe that say nothing about the run itself."""
_SEED = "training.seed"


@dataclass(frozen=True)
class ComparedRun:
    """One of the runs that are compared."""

    finished: FinishedRun
    label: str
    """A short name that no other of the runs has."""
    settings: dict[str, Any]
    """The values of the settings in which the runs differ, by their paths; a setting that this recipe does not have
    is missing."""
    value: float | None
    """The metric on the held-out rows."""
    plan: PlanFigures


@dataclass(frozen=True)
class Difference:
    """How far a configuration is from the best one."""

    value: float
    """Its metric minus the best one's."""
    interval: tuple[float, float] | None
    """The 95% interval of the difference; None if nothing says how much the metric varies."""

    @property
    def is_noise(self) -> bool | None:
        """Whether the interval includes zero; None without an interval."""
        return None if self.interval is None else self.interval[0] <= 0 <= self.interval[1]


@dataclass(frozen=True)
class Configuration:
    """The runs with the same settings apart from the seed."""

    number: int
    """The rank by the metric, from 1 on."""
    runs: tuple[ComparedRun, ...]
    value: float | None
    """The mean of the metric over the runs that have one."""
    half_width: float | None
    """Half of the 95% interval of the mean; None for a single run."""
    from_best: Difference | None
    """None for the best one, and if there is no best one."""

    @property
    def label(self) -> str:
        """The name of its only run, or that of a trial whose runs are named by their seeds, or that of the first run
        and the number of the others."""
        first, *others = self.runs
        names = {run.label.removesuffix(f"-seed{run.finished.recipe.training.seed}") for run in self.runs}
        if others and len(names) == 1:
            return names.pop()
        return first.label + (f" and {len(others)} more" if others else "")

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that all of its runs share."""
        return {path: value for path, value in self.runs[0].settings.items() if path != _SEED}


@dataclass(frozen=True)
class Comparison:
    """What several runs have in common and in what they differ."""

    configurations: tuple[Configuration, ...]
    """The best one first; those without a value of the metric last."""
    metric: Metric | None
    """What they are ranked by; None if they share no metric that can be compared."""
    settings: tuple[str, ...]
    """The paths of the settings that differ, without the seed."""
    cautions: tuple[str, ...]
    """What a reader must know before comparing the values, in sentences."""
    spread: Spread | None
    """How much the metric varies between seeds; None without repeated runs."""
    title: str = ""
    """What the runs belong to; empty if they were named one by one."""
    without_result: Table | None = None
    """The runs that belong to the same job and have no result."""

    @property
    def runs(self) -> list[ComparedRun]:
        """All runs in the order of the configurations."""
        return [run for configuration in self.configurations for run in configuration.runs]

    @property
    def best(self) -> Configuration | None:
        """The best configuration, if there are several and they can be ranked."""
        ranked = [configuration for configuration in self.configurations if configuration.value is not None]
        return ranked[0] if self.metric is not None and len(ranked) > 1 else None

    @property
    def objective(self) -> Objective:
        """The objective of the best run, which says which metrics there are."""
        return self.runs[0].finished.objective


def compare_runs(runs: Sequence[FinishedRun], wanted: str | Metric | None = None) -> Comparison:
    """Compare one or more runs by a metric or by the key of one, by default by their objectives' best metric.

    Raises `RecipeError` U406 if no run has the metric `wanted`, or if it has no direction.
    """
    metric, cautions = (wanted, ()) if isinstance(wanted, Metric) else choose_metric(runs, wanted)
    recipes = [_settings(run) for run in runs]
    differing = _differing(recipes)
    compared = [
        ComparedRun(
            run,
            label,
            {path: settings[path] for path in differing if path in settings},
            None if metric is None else finite(run.result.metrics.get(f"eval_{metric.key}")),
            read_plan_figures(run.run, run.result),
        )
        for run, label, settings in zip(runs, _labels(runs), recipes, strict=True)
    ]
    groups = _group_by_settings(compared)
    spread = pooled_spread([run.value for run in group if run.value is not None] for group in groups)
    cautions = (*cautions, *_cautions(runs, metric, differing))
    return Comparison(
        tuple(_rank(groups, metric, spread)),
        metric,
        tuple(path for path in differing if path != _SEED),
        cautions,
        spread,
    )


def _settings(run: FinishedRun) -> dict[str, Any]:
    plain = {key: value for key, value in plain_recipe(run.recipe).items() if key not in _NOT_COMPARED}
    return dict(leaves(plain))


def _differing(recipes: Sequence[dict[str, Any]]) -> list[str]:
    """The paths whose values are not the same in all recipes, in the order of the recipe."""
    paths = {path: None for settings in recipes for path in settings}
    missing = object()
    return [path for path in paths if any(s.get(path, missing) != recipes[0].get(path, missing) for s in recipes)]


def _labels(runs: Sequence[FinishedRun]) -> list[str]:
    """The names of the recipes; for several runs of one recipe also the last part of the directory's name, and for
    directories of the same name also their number here."""
    names = [run.result.recipe for run in runs]
    labels = [
        name if names.count(name) == 1 else f"{name} {run.run.path.name.rpartition('-')[2]}"
        for name, run in zip(names, runs, strict=True)
    ]
    return [label if labels.count(label) == 1 else f"{label} ({number})" for number, label in enumerate(labels, 1)]


def _group_by_settings(runs: Iterable[ComparedRun]) -> list[list[ComparedRun]]:
    groups: dict[str, list[ComparedRun]] = {}
    for run in runs:
        settings = {path: value for path, value in run.settings.items() if path != _SEED}
        groups.setdefault(json.dumps(settings, sort_keys=True, default=str), []).append(run)
    return list(groups.values())


def _rank(groups: list[list[ComparedRun]], metric: Metric | None, spread: Spread | None) -> Iterable[Configuration]:
    """The configurations, the best one first."""
    means = [(_mean(group), group) for group in groups]
    if metric is not None:
        sign = -1 if metric.higher_is_better else 1
        means.sort(key=lambda pair: (pair[0] is None, sign * (pair[0] or 0.0)))
    best = means[0]
    for number, (value, group) in enumerate(means, 1):
        count = sum(run.value is not None for run in group)
        half_width = spread.half_width(count) if spread is not None and count > 1 else None
        difference = None
        if metric is not None and number > 1 and value is not None and best[0] is not None:
            difference = Difference(value - best[0], _difference_interval(metric, group, best[1], spread))
        yield Configuration(number, tuple(group), value, half_width, difference)


def _mean(group: Sequence[ComparedRun]) -> float | None:
    values = [run.value for run in group if run.value is not None]
    return fmean(values) if values else None


def _difference_interval(
    metric: Metric, group: Sequence[ComparedRun], best: Sequence[ComparedRun], spread: Spread | None
) -> tuple[float, float] | None:
    """The 95% interval of the difference of two means: from repeated runs, or else for a share of rows from their
    number."""
    ours, theirs = ([run for run in runs if run.value is not None] for runs in (group, best))
    difference = (_mean(ours) or 0.0) - (_mean(theirs) or 0.0)
    if spread is not None:
        half_width = spread.half_width(len(ours), len(theirs))
        return difference - half_width, difference + half_width
    num_ours, num_theirs = (runs[0].finished.result.num_eval_rows for runs in (ours, theirs))
    if metric.is_share and metric.chance is not None and num_ours and num_theirs:
        return difference_interval(_mean(ours) or 0.0, num_ours, _mean(theirs) or 0.0, num_theirs)
    return None


def _cautions(runs: Sequence[FinishedRun], metric: Metric | None, differing: Sequence[str]) -> Iterable[str]:
    rows = {(run.result.data.source, run.result.num_eval_rows) for run in runs}
    if metric is not None and len(rows) > 1:
        counts = sorted({run.result.num_eval_rows or 0 for run in runs})
        shown = " to ".join(format_count(count) for count in dict.fromkeys((counts[0], counts[-1])))
        yield (
            "The runs did not read the same rows: data, template, lengths, selection or seed differ, and "
            f"{shown} rows are held out. A difference may come from the rows."
        )
    scale = [path for path in differing if path.startswith("objective.") and path != "objective.kind"]
    if metric == LOSS and scale:
        names = ", ".join(scale)
        yield f"The loss itself depends on {names}, so a part of its difference is one of scale."
