"""Generates the JSON schema of a recipe from the pydantic models."""

from __future__ import annotations

from typing import Any

from dpo_recipes.recipe.schema import Recipe


def recipe_json_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a recipe file.

    A recipe that extends another may omit what its parent has, so the required fields are required only in a recipe
    without `extends`.
    """
    schema = Recipe.model_json_schema(by_alias=True)
    required = schema.pop("required")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "dpo-recipe, schema version 1",
        **{key: value for key, value in schema.items() if key != "title"},
        "anyOf": [{"required": ["extends"]}, {"required": required}],
    }
