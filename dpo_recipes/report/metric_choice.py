"""Chooses the metric by which runs are compared."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from dpo_recipes.errors import RecipeError
from dpo_recipes.finished_run import FinishedRun
from dpo_recipes.objectives import loss_function
from dpo_recipes.objectives.metric import LOSS, Metric


def choose_metric(runs: Sequence[FinishedRun], wanted: str | None) -> tuple[Metric | None, tuple[str, ...]]:
    """The metric to compare by, and what a reader must know about the choice, in sentences.

    Without `wanted` it is the best metric of the objectives. The losses of different objectives or loss functions
    cannot be compared; then it is a share that all of them measure, or None. Raises `RecipeError` U406.
    """
    if wanted is not None:
        return _find(runs, wanted.removeprefix("eval_")), ()
    own = [run.objective.metric(run.objective.best_metric) for run in runs]
    is_same = all(metric == own[0] for metric in own)
    if is_same and (own[0] != LOSS or len({loss_function(run.recipe) for run in runs}) == 1):
        return own[0], ()
    reason = "Their losses are different functions, which cannot be compared" if is_same else "Their objectives differ"
    for metric in runs[0].objective.metrics:
        shared = metric.is_share and metric.higher_is_better is not None
        if shared and all(_has(run, metric.key) for run in runs):
            return metric, (f"{reason}: the runs are compared by {metric.label.lower()}, which all of them measure.",)
    return None, (f"{reason}, and no metric that can be compared is measured by all of them: the runs are not ranked.",)


def _has(run: FinishedRun, key: str) -> bool:
    return run.result.metrics.get(f"eval_{key}") is not None


def _find(runs: Sequence[FinishedRun], key: str) -> Metric:
    metrics = {metric.key: metric for run in runs for metric in run.objective.metrics}
    known = [name for name, metric in metrics.items() if metric.higher_is_better is not None]
    measured = [name for name in known if any(_has(run, name) for run in runs)]
    if key in measured:
        return metrics[key]
    near = difflib.get_close_matches(key, () if key in metrics else measured, n=1, cutoff=0.5)
    if key in known:
        why = "no run has measured it on held-out rows"
    elif key in metrics:
        why = "neither its high nor its low values are better"
    else:
        why = "no objective of these runs has a metric of that name"
    raise RecipeError.of(
        "U406",
        f"the runs cannot be compared by `{key}`",
        why=f"{why}; measured are {', '.join(measured) or 'none'}",
        fix=f"did you mean `--metric {near[0]}`?" if near else "choose one that is measured, or leave `--metric` out",
    )
