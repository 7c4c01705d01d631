"""Checks whether `training.early_stopping` can end a run before its last step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from dpo_recipes.errors import Finding
from dpo_recipes.recipe.compose import Composed
from dpo_recipes.recipe.load import DataPath
from dpo_recipes.recipe.schema import Recipe

AT: DataPath = ("training", "early_stopping", "patience")


class TooLate(NamedTuple):
    """The texts of a finding about a run that is over before it could end early."""

    what: str
    why: str
    fix: str


def check_patience(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R397, as far as the number of evaluations is known without the rows; F781 knows these."""
    found = too_late(recipe, recipe.training.num_evaluations())
    if found is not None and recipe.data.eval.is_set:
        yield Finding("R397", found.what, composed.where(AT), found.why, found.fix, "warning")


def too_late(recipe: Recipe, num_evaluations: int | None) -> TooLate | None:
    """The finding for a number of evaluations before the last step, or None if early stopping can have an effect or the
    number is not known. The first evaluation only gives a value to improve on."""
    training, count = recipe.training, num_evaluations
    early = training.early_stopping
    if early is None or training.eval_steps is None or count is None or count > early.patience:
        return None
    times = ("not evaluated", "evaluated once")[count] if count < 2 else f"evaluated {count} times"
    by_epoch = training.eval_steps == "epoch"
    often = "write a number of steps as `training.eval_steps`" if by_epoch else "lower `training.eval_steps`"
    return TooLate(
        f"the run is over before `early_stopping` can end it: `patience` is {early.patience}, and the model is {times} "
        "before the last step",
        f"the first evaluation gives the value to improve on, so that evaluation {early.patience + 1} is the first "
        "after which training can end",
        often if count < 2 else f"write `patience: {count - 1}` or less, or {often}",
    )
