"""Findings that more than one file of rules has."""

from __future__ import annotations

from dpo_recipes.errors import Finding
from dpo_recipes.recipe.compose import Composed
from dpo_recipes.recipe.load import DataPath


def does_nothing(at: DataPath, why: str, composed: Composed) -> Finding:
    """R327: a setting without effect, which would look as if it had one."""
    return Finding("R327", f"`{at[-1]}` does nothing here", composed.where(at, key=True), why, "remove it")
