"""Findings that are shared by several modules of checks."""

from __future__ import annotations

from dpo_recipes.errors import Finding
from dpo_recipes.recipe.compose import Composed
from dpo_recipes.recipe.load import DataPath


def does_nothing(at: DataPath, why: str, composed: Composed) -> Finding:
    """R327: a setting has no effect."""
    return Finding("R327", f"`{at[-1]}` has no effect here", composed.where(at, key=True), why, "remove it")
