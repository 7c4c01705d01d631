"""Checks of the objectives whose policy writes answers: their rewards, and sections of the recipe that do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dpo_recipes.errors import Finding
from dpo_recipes.objectives.base import Locate

if TYPE_CHECKING:
    from dpo_recipes.objectives.policy import PolicyParams
    from dpo_recipes.recipe.schema import Recipe

SHORTEST_PROMPT = 8
"""The least number of tokens that must be left for a prompt, as in `data.max_length`."""


def check_values(params: PolicyParams, locate: Locate) -> Iterator[Finding]:
    """R389: no answer can be better than another one."""
    at = ("objective", "rewards")
    if all(source.weight == 0.0 for source in params.rewards):
        why = "no answer is better than another one then"
        yield Finding("R389", "all rewards have a weight of 0", locate(at, key=True), why, "give one another weight")
    bounds = params.reward_clip_range
    if bounds is not None and bounds[0] >= bounds[1]:
        where = locate(("objective", "reward_clip_range"))
        why = f"the lower bound {bounds[0]} is not below the upper one {bounds[1]}"
        yield Finding("R389", "no reward is between these bounds", where, why, "write the lower bound first")


def check_data(recipe: Recipe, params: PolicyParams, locate: Locate) -> Iterator[Finding]:
    """R395: no room for a prompt; R327: settings for answers in the data."""
    data, longest = recipe.data, recipe.data.max_length - params.max_new_tokens
    if longest < SHORTEST_PROMPT:
        yield Finding(
            "R395",
            f"`data.max_length` leaves {max(0, longest)} tokens for a prompt",
            locate(("objective", "max_new_tokens"), key=True),
            f"it is {data.max_length} for prompt + answer, and an answer has up to {params.max_new_tokens}",
            f"raise `data.max_length` to at least {params.max_new_tokens + SHORTEST_PROMPT}, or lower `max_new_tokens`",
        )
    if data.overlong == "truncate_completion_end":
        why = "rows are prompts, whose answers are written in training"
        yield Finding(
            "R327", "`data.overlong` cannot cut answers", locate(("data", "overlong")), why, "choose another way"
        )
    if data.train_on_turns != "assistant":
        yield Finding(
            "R327",
            "`data.train_on_turns` has no effect here",
            locate(("data", "train_on_turns"), key=True),
            "the policy writes one turn, and is trained on it",
            "remove it",
        )
