"""Schema version 1 of a recipe: pydantic models, one file per section. YAML key = field name = name in the docs."""

from dpo_recipes.recipe.schema.recipe import SCHEMA_VERSION, Recipe

__all__ = ["SCHEMA_VERSION", "Recipe"]
