"""What a rule of advice has to say about one job."""

from __future__ import annotations

from dataclasses import dataclass

from dpo_recipes.recipe.load import DataPath


@dataclass(frozen=True)
class Remark:
    """A value that will disappoint: where it stands in the recipe, what it is, its arithmetic, and a way out."""

    at: DataPath
    what: str
    number: str
    fix: str
