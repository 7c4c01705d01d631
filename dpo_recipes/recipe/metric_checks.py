"""Checks the metric by which a recipe chooses a model."""

from __future__ import annotations

import difflib

from dpo_recipes.errors import Finding, Where
from dpo_recipes.objectives.base import Objective


def metric_finding(
    code: str, wanted: str, objective: Objective, where: Where, *, instead: str, needs_direction: bool = True
) -> Finding | None:
    """The finding for a metric that the objective does not have, or one without a better direction if it needs one;
    None for a metric to choose by. `instead` says how to choose the objective's own metric."""
    known = [metric.key for metric in objective.metrics if metric.higher_is_better is not None or not needs_direction]
    if wanted in known:
        return None
    has_no_direction = any(metric.key == wanted for metric in objective.metrics)
    near = difflib.get_close_matches(wanted.removeprefix("eval_"), known if not has_no_direction else (), 1, 0.5)
    return Finding(
        code,
        f"no model can be chosen by `{wanted}`" if has_no_direction else f"unknown metric `{wanted}`",
        where,
        ("neither a high nor a low value of it is better; " if has_no_direction else "")
        + f"`{objective.kind}` chooses by one of {', '.join(known)}",
        f"did you mean `{near[0]}`?" if near else f"choose one of these, or {instead}",
    )
