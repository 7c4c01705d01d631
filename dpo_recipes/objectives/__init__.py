"""Training objectives, one module for each, and their common interface in `base`.

`registry.OBJECTIVES` lists them. Other packages add theirs through the entry-point group `dpo_recipes.objectives`.
"""

from __future__ import annotations

from typing import Any

from dpo_recipes import registry
from dpo_recipes.error_codes import CODES, CodeEntry
from dpo_recipes.objectives.base import Objective, ObjectiveParams
from dpo_recipes.objectives.metric import Metric

DEFAULT_KIND = "dpo"


def get_objective(kind: str) -> Objective:
    """The objective of a kind. Raises `KeyError` if it does not exist."""
    return registry.load("objectives", kind)


def objective_of(recipe: Any) -> Objective:
    """The objective of a recipe."""
    return get_objective(recipe.objective.kind)


def loss_function(recipe: Any) -> str:
    """The name of the loss function of a recipe. The losses of two runs can be compared only if it is the same."""
    variant = getattr(recipe.objective, "loss_type", "")
    return " ".join([recipe.objective.kind, *([variant] if isinstance(variant, str) else variant)]).strip()


def keep_best_metric(recipe: Any) -> Metric | None:
    """The metric by which `checkpoints.keep_best` chooses a model, or None if it is off. Raises `KeyError` if the
    objective has no such metric, which validation reports."""
    wanted, objective = recipe.checkpoints.keep_best, objective_of(recipe)
    if wanted is False:
        return None
    return objective.metric(objective.best_metric if wanted is True else wanted)


def early_stopping_metric(recipe: Any) -> Metric | None:
    """The metric by which `training.early_stopping` judges, or None if it is off. Raises `KeyError` as
    `keep_best_metric` does."""
    settings, objective = recipe.training.early_stopping, objective_of(recipe)
    return None if settings is None else objective.metric(settings.metric or objective.best_metric)


def all_params() -> dict[str, type[ObjectiveParams]]:
    """The class of the `objective` section for each kind, by kind in alphabetical order."""
    return {kind: get_objective(kind).params for kind in registry.names("objectives")}


def all_codes() -> dict[str, CodeEntry]:
    """The explanation of each error code, with those of objectives of other packages."""
    outside = (get_objective(kind).codes for kind in registry.names("objectives") if kind not in registry.OBJECTIVES)
    return {**CODES, **{code: entry for codes in outside for code, entry in codes.items() if code not in CODES}}


def fixed_micro_batch_reason(recipe: Any) -> str | None:
    """Why another micro-batch would change the loss of a recipe; None if it would not."""
    objective, params = objective_of(recipe), recipe.objective
    if objective.couples_batch(params):
        return f"the loss of {objective.title(params)} compares the rows of a micro-batch with one another"
    if objective.averages_tokens(params):
        return f"the loss of {objective.title(params)} is a mean over the tokens of a micro-batch"
    return None
