"""The result of a rule of advice for one job."""

from __future__ import annotations

from dataclasses import dataclass

from dpo_recipes.recipe.load import DataPath


@dataclass(frozen=True)
class Remark:
    """A doubtful value: its place in the recipe, a description, its arithmetic, and a way out."""

    at: DataPath
    what: str
    number: str
    fix: str
