"""Reward models without their weights: those that exist, and those that another step of a chain will train."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dpo_recipes.errors import DpoRecipeError
from dpo_recipes.finished_run import open_run
from dpo_recipes.fit.simulation.meta_model import MetaModel, Weights, load_meta_model, weigh
from dpo_recipes.fit.simulation.passes import Batch, simulate
from dpo_recipes.fit.simulation.trace import Rates
from dpo_recipes.model.sources import resolve_model
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.reward_settings import ModelReward, RewardSettings
from dpo_recipes.run_dir import RunDirectory

RewardRecipes = Mapping[str, Recipe]
"""The recipes of reward models that do not exist yet, by the text that stands for the model, such as `step:reward`."""


@dataclass(frozen=True)
class RewardModelPlan:
    """A reward model that a run or an evaluation will load."""

    source: ModelReward
    meta_model: MetaModel
    weights: Weights
    max_length: int
    """The longest text in tokens."""

    @property
    def recipe(self) -> Recipe:
        """The recipe that trains it, or one that only names it."""
        return self.meta_model.recipe

    @property
    def num_bytes(self) -> int:
        """The size of its weights."""
        return self.weights.base + self.weights.adapter

    def seconds(self, num_texts: float, num_tokens: float, rates: Rates) -> float:
        """The time to score texts of this length: two operations for each parameter and token."""
        return num_texts * 2 * self.weights.num_base * min(num_tokens, self.max_length) / rates.flops

    def activations(self, num_tokens: int, num_texts: int, rates: Rates) -> int:
        """The temporary memory to score texts of this length, as many of them at once as the source says."""
        size, width = min(self.source.batch_size, num_texts), min(num_tokens, self.max_length)
        batch = Batch.of([width] * size, [0] * size)
        return int(sum(simulate(self.meta_model, batch, rates, trains=False).peak))


def plan_reward_models(
    sources: Iterable[RewardSettings], device: str, dtype: str, recipes: RewardRecipes
) -> list[RewardModelPlan]:
    """The reward models among the sources that will be on a device, which is that of the run, where `auto` stands for
    the precision `dtype`. One that cannot be read is left out: the run reports it when it is loaded."""
    found = []
    for source in sources:
        if isinstance(source, ModelReward):
            try:
                plan = _plan(source, device, dtype, recipes.get(source.model))
            except DpoRecipeError:
                continue
            found.append(plan)
    return found


def _plan(source: ModelReward, device: str, dtype: str, recipe: Recipe | None) -> RewardModelPlan:
    """Raises what reading a recipe or a configuration raises."""
    path = Path(source.model)
    if recipe is None and RunDirectory(path).resolved_recipe.is_file():
        recipe = open_run(path).recipe
    trained = None if recipe is None else recipe.data.max_length
    recipe = recipe or recipe_of_model(source.model, source.revision, {"kind": "reward"})
    recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update={"prefix_sharing": "off"})})
    device = device if source.device == "auto" else source.device
    meta_model = load_meta_model(recipe, resolve_model(recipe.model), device, trust_remote_code=False)
    chosen = next(name for name in (source.dtype, recipe.model.dtype, dtype) if name != "auto")
    meta_model = replace(meta_model.with_dtype(chosen), trains=False)
    positions = getattr(meta_model.config.get_text_config(), "max_position_embeddings", None)
    lengths = [length for length in (source.max_length or trained, positions) if length is not None]
    return RewardModelPlan(source, meta_model, weigh(meta_model, meta_model.build()), min(lengths, default=1024))


def recipe_of_model(path: str, revision: str | None = None, objective: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe that stands for a model that no recipe is known of: the model alone, without an adapter."""
    model = {"path": path, "revision": revision}
    source = {"path": "none.jsonl"}  # nothing is read of it
    plain = {"schema": 1, "name": "model", "model": model, "data": {"train": [source]}}
    return Recipe.model_validate({**plain, **({"objective": dict(objective)} if objective else {})})
