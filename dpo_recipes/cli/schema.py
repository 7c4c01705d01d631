"""`dpo-recipe schema`: the JSON schema that editors complete and check recipes with."""

from __future__ import annotations

import json

import typer

from dpo_recipes.recipe.schema import recipe_json_schema


def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    typer.echo(json.dumps(recipe_json_schema(), indent=2, ensure_ascii=False))
