"""Chooses the values of the next trial of a sweep by `tpe` from the results of the others."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from dpo_recipes.jobs.outcome import sweep_metric
from dpo_recipes.jobs.study import Choices, suggest
from dpo_recipes.jobs.trial_run import TrialRun
from dpo_recipes.locks import held
from dpo_recipes.recipe.schema.sweep import Range
from dpo_recipes.recipe.trials import rounded


def propose(run: TrialRun, runs: Sequence[TrialRun]) -> None:
    """Choose the values of a run's trial, and record them for all of its runs.

    They depend on `training.seed`, the number of the trial, and the results that are known now. One process at a time
    chooses, so that each sees what the others have chosen.
    """
    recipe = run.validated.recipe
    assert recipe.sweep is not None, "the recipe has a sweep"
    space = recipe.sweep.tpe
    with held(run.sweep.runs / "values.lock"):
        if run.find_trial() is not None:
            return
        seed = (recipe.training.seed * 1_000_003 + run.number) % 2**32
        chosen = suggest(space, _known(runs), sweep_metric(recipe), seed)
        run.choose({name: _short(choice, space[name]) for name, choice in chosen.items()})


def _known(runs: Sequence[TrialRun]) -> list[tuple[Choices, float | None]]:
    """The choices of each trial that has its values, with the mean of its results, or None while it has none. Trials
    that failed are left out."""
    by_trial: dict[int, list[TrialRun]] = {}
    for run in runs:
        if run.chosen() is not None:
            by_trial.setdefault(run.number, []).append(run)
    known: list[tuple[Choices, float | None]] = []
    for members in by_trial.values():
        metric = sweep_metric(members[0].validated.recipe)
        values = [value for value in (run.value(metric) for run in members) if value is not None]
        if values or any(run.state == "unfinished" for run in members):
            known.append((members[0].chosen() or {}, statistics.fmean(values) if values else None))
    return known


def _short(choice: int | float, values: Any) -> int | float:
    """A value in a range with few digits; others are on steps or are whole numbers already."""
    return rounded(choice, values) if isinstance(values, Range) and values.step is None else choice
