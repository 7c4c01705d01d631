"""What is found before data and weights are read."""

from __future__ import annotations

from pathlib import Path

from dpo_recipes.errors import DpoRecipeError, Finding
from dpo_recipes.model.preflight import check_base
from dpo_recipes.model.sources import resolve_model
from dpo_recipes.recipe.validate import validate


def check(path: Path, text: str, *overrides: str) -> list[Finding]:
    """The findings about a recipe and its base, with their places; warnings if there is no error."""
    path.write_text(text, encoding="utf-8")
    validated = validate(path, list(overrides))
    location = resolve_model(validated.recipe.model)
    try:
        found = check_base(validated.recipe, location, trust_remote_code=False)
    except DpoRecipeError as error:
        return list(error.located(validated.composed.where).findings)
    return [finding.located(validated.composed.where) for finding in found]
