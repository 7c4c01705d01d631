"""The shipped files by their kind, for tests of all recipes."""

from __future__ import annotations

from pathlib import Path

from dpo_recipes.jobs.chain_file import ValidatedChain, validate_file
from dpo_recipes.recipe.load import load_file
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.shipped import recipe_paths

SINGLE = [name for name, path in recipe_paths().items() if "steps" not in load_file(path).data]
"""The names of those that are no chains."""


def recipes_in(path: Path) -> dict[str, Recipe]:
    """The recipe in a file, or those of the steps of a chain, by name."""
    validated = validate_file(path)
    if isinstance(validated, ValidatedChain):
        return {step.name: step.checked.settings for step in validated.steps if step.kind.section is Recipe}
    return {path.stem: validated.recipe}
