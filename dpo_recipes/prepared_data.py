"""The stages before the model: from a recipe to tokenized rows, for the worker and for `dpo-recipe data`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dpo_recipes.data.chat_template import Chat, apply_template
from dpo_recipes.data.mismatched import add_mismatched_answers
from dpo_recipes.data.prepare import RowSplits, load_rows
from dpo_recipes.data.tokenize import TokenizedSplits, tokenize_splits
from dpo_recipes.model.sources import ModelLocation, resolve_model
from dpo_recipes.model.tokenizer import load_tokenizer
from dpo_recipes.objectives import objective_of
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.reward_settings import needed_columns


@dataclass(frozen=True)
class PreparedData:
    """The tokenized rows of each split, with the tokenizer and template that made them."""

    splits: TokenizedSplits
    tokenizer: Any
    chat: Chat
    location: ModelLocation
    max_length: int
    """The maximum length of a row in tokens: `data.max_length`, less the room of answers that are yet to be written."""


def rows_of(recipe: Recipe) -> RowSplits:
    """The rows of a recipe's splits before they are rendered and tokenized. Raises `DataError`."""
    objective, params = objective_of(recipe), recipe.objective
    return load_rows(recipe.data, recipe.training.seed, objective.rows, needed_columns(objective.rewards(params)))


def prepare_data(
    recipe: Recipe, on_stage: Callable[[str, str], None], *, trust_remote_code: bool, for_inspection: bool = False
) -> PreparedData:
    """Read, convert, select, render and tokenize; no weight is loaded. `on_stage` gets the name of each stage and
    a detail.

    Data comes before the tokenizer, so that its faults are found first. `trust_remote_code` counts only together with
    the recipe's own: its author and the person who runs it must both want it. With `for_inspection`, errors that are
    found while tokenizing are among the warnings, so that the rows can be shown, and rows have no answers of
    others. Raises `DataError`, `RunError`.
    """
    on_stage("data", "reading rows")
    objective, params = objective_of(recipe), recipe.objective
    rows = rows_of(recipe)
    on_stage("tokenizer", recipe.model.path)
    location, trust = resolve_model(recipe.model), trust_remote_code and recipe.model.trust_remote_code
    is_encoder = _is_encoder(recipe, location, trust_remote_code=trust)
    tokenizer = load_tokenizer(location, trust_remote_code=trust, is_encoder=is_encoder)
    variables = recipe.chat_template_kwargs
    chat = apply_template(
        tokenizer, recipe.chat_template, recipe.model.add_special_tokens, variables, is_encoder=is_encoder
    )
    on_stage("tokenize", f"{sum(map(len, rows.rows.values()))} rows through `{chat.template.name}`")
    # Answers that the policy writes in training need their room.
    data = recipe.data.model_copy(update={"max_length": recipe.data.max_length - objective.new_tokens(params)})
    splits = tokenize_splits(
        rows, tokenizer, chat.renderer, data, accepted=recipe.accept_advice, raise_errors=not for_inspection
    )
    if objective.adds_mismatched_answer(params) and not for_inspection:
        splits = add_mismatched_answers(splits, recipe.training.seed, recipe.data.max_length)
    return PreparedData(splits, tokenizer, chat, location, data.max_length)


def _is_encoder(recipe: Recipe, location: ModelLocation, *, trust_remote_code: bool) -> bool:
    """Whether the base of a reward model is an encoder; other objectives have none."""
    if objective_of(recipe).head == "causal_lm":
        return False
    from dpo_recipes.model.build import load_config
    from dpo_recipes.model.heads import is_encoder

    return is_encoder(load_config(location, trust_remote_code=trust_remote_code))
