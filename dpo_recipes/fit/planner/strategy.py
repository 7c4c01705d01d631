"""Chooses the strategy of several processes if a recipe leaves it open: no sharding if the job fits each device."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from dpo_recipes.fit.planner.plan import JobPlan
from dpo_recipes.fit.planner.sharding import Sharding
from dpo_recipes.hardware.profiles import Device
from dpo_recipes.hardware.rules import supports_strategy
from dpo_recipes.objectives import objective_of
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.schema.launch import Strategy
from dpo_recipes.recipe.strategies import IN_RULES

_GIB = 2**30
_SHARDED: tuple[Strategy, ...] = ("fsdp", "deepspeed-zero3")
"""By preference."""


def choose_strategy(
    recipe: Recipe, num_processes: int, device: Device, plan: Callable[[Sharding], JobPlan]
) -> tuple[JobPlan, str]:
    """The plan under the chosen strategy, and the reason for the choice.

    `ddp` is the fastest if it fits; weights, gradients and optimizer state are sharded only if it does not.
    """
    if recipe.launch.strategy != "auto":
        return plan(Sharding(num_processes, recipe.launch.strategy)), "the recipe says so"
    whole = plan(Sharding(num_processes))
    if num_processes == 1:
        return whole, "one process shares nothing"
    if whole.fits:
        return whole, f"the whole job fits each device, with {whole.spare_bytes / _GIB:.2f} GiB to spare"
    missing = f"the whole job lacks {-whole.spare_bytes / _GIB:.2f} GiB on each device"
    if objective_of(recipe).reference(recipe.objective) == "live":
        return whole, f"{missing}, and it cannot be sharded: each process needs the moving reference whole"
    if objective_of(recipe).new_tokens(recipe.objective):
        return whole, f"{missing}, and it cannot be sharded: each process generates with all weights"
    quantization = recipe.model.quantization
    reasons: list[str] = []
    for strategy in _SHARDED:
        verdict = supports_strategy(device, IN_RULES[strategy], bits=quantization.bits if quantization else None)
        if strategy == "deepspeed-zero3" and importlib.util.find_spec("deepspeed") is None:
            reasons.append("deepspeed is not installed")
        elif verdict.allowed:
            but = f", and `{_SHARDED[0]}` cannot: {reasons[0]}" if reasons else ""
            return plan(Sharding(num_processes, strategy)), f"{missing}{but}"
        else:
            reasons.append(verdict.why)
    return whole, f"{missing}, and it cannot be sharded: {'; '.join(dict.fromkeys(reasons))}"
