"""Rewards from a Python function, which the person who starts the run must allow."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dpo_recipes.errors import RecipeError, in_one_line
from dpo_recipes.recipe.reward_checks import not_allowed
from dpo_recipes.reward_settings import FunctionReward
from dpo_recipes.rewards.base import Columns, Prompt, RewardContext


class FunctionSource:
    """Calls the function for all answers at once."""

    def __init__(self, settings: FunctionReward, context: RewardContext) -> None:
        """Import the function. Raises `RecipeError` R386 (not allowed) and R387 (cannot be imported)."""
        if settings.function not in context.allowed_functions:
            raise RecipeError(not_allowed(settings))
        self._takes = settings.takes
        self._function = _import(settings)

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str], columns: Columns) -> Sequence[float]:
        """What the function returns."""
        taken = {name: list(columns[name]) for name in self._takes}
        return self._function(prompts=[list(prompt) for prompt in prompts], answers=list(answers), **taken)


def _import(settings: FunctionReward) -> Callable[..., Any]:
    path, name = Path(settings.file), settings.function_name
    module_name = f"dpo_recipes_reward_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None, "the schema accepts files that end in .py only"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pickles of the file look themselves up there
    try:
        spec.loader.exec_module(module)
        function = getattr(module, name)
    except Exception as error:  # the file is the user's, and its import may raise anything
        raise _not_importable(settings, in_one_line(error)) from error
    if not callable(function):
        raise _not_importable(settings, f"`{name}` is {type(function).__name__}, not a function")
    return function


def _not_importable(settings: FunctionReward, why: str) -> RecipeError:
    return RecipeError.of(
        "R387",
        f"the reward function {settings.function} cannot be imported",
        why=why,
        fix="correct the file; it is imported in the process that trains, with the packages of this environment",
    )
