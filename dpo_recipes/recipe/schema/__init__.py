"""Schema version 1 of a recipe: pydantic models, one file per section. A field has the same name in YAML, in Python
and in the docs."""

from dpo_recipes.recipe.schema.recipe import SCHEMA_VERSION, Recipe, recipe_json_schema

__all__ = ["SCHEMA_VERSION", "Recipe", "recipe_json_schema"]
