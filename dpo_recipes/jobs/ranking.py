"""Compares trials: the mean and the interval over the seeds of each, and the best one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import cmp_to_key

from dpo_recipes.importance import ABSENT, rank_settings
from dpo_recipes.jobs.sweep_result import Best, RunOutcome, SettingImportance, SettingImportances, TrialOutcome
from dpo_recipes.objectives.metric import Metric
from dpo_recipes.significance import pooled_spread, t_quantile


def mean_and_interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """The mean, and half the width of its 95 % interval; None where there are too few values."""
    if not values:
        return None, None
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, None
    return mean, t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


def ranked(trials: Sequence[TrialOutcome], metric: Metric) -> list[TrialOutcome]:
    """The trials that have a value, the best one first. One that lacks a run stands behind all complete ones, and of
    equal ones the first stays first."""

    def compare(one: TrialOutcome, other: TrialOutcome) -> int:
        if one.is_complete != other.is_complete:
            return -1 if one.is_complete else 1
        return metric.is_better(other.value, one.value) - metric.is_better(one.value, other.value)

    return sorted((trial for trial in trials if trial.value is not None), key=cmp_to_key(compare))


def choose_best(trials: Sequence[TrialOutcome], metric: Metric) -> Best | None:
    """The best trial with its best run, and its lead over the second; None if no trial has a value.

    The lead is noise if it is within the 95% interval of the difference of both means. As in `dpo-recipe report`, seeds
    are taken to vary alike in all trials."""
    order = ranked(trials, metric)
    if not order:
        return None
    best, run = order[0], _best_run(order[0].runs, metric)
    if len(order) == 1:
        return Best(trial=best.number, run=run.directory)
    first, second = best.value, order[1].value
    assert first is not None, "a ranked trial has a value"
    assert second is not None, "a ranked trial has a value"
    lead = first - second if metric.higher_is_better else second - first
    spread = pooled_spread(map(_values, trials))
    noise = None if spread is None else lead <= spread.half_width(len(_values(best)), len(_values(order[1])))
    return Best(trial=best.number, run=run.directory, lead=lead, is_within_noise=noise)


def judge_settings(trials: Sequence[TrialOutcome]) -> SettingImportances | None:
    """The importance of each setting of a sweep; None if too few trials have a value."""
    measured = [trial for trial in trials if trial.value is not None]
    names = dict.fromkeys(name for trial in measured for name in trial.values)
    settings = {name: [trial.values.get(name, ABSENT) for trial in measured] for name in names}
    found = rank_settings(settings, [_values(trial) for trial in measured])
    if found is None:
        return None
    shares = [
        SettingImportance(
            settings=list(each.settings),
            share=round(each.share, 4),
            chance_share=round(each.chance_share, 4),
            is_shown=each.is_shown,
        )
        for each in found.settings
    ]
    seeds = None if found.seed_share is None else round(found.seed_share, 4)
    return SettingImportances(settings=shares, rest=round(found.rest, 4), seed_share=seeds)


def _values(trial: TrialOutcome) -> list[float]:
    return [run.value for run in trial.runs if run.value is not None]


def _best_run(runs: Sequence[RunOutcome], metric: Metric) -> RunOutcome:
    best = runs[0]
    for run in runs[1:]:
        if metric.is_better(run.value, best.value):
            best = run
    return best
