"""`dpo-recipe ls`: the shipped recipes."""

from __future__ import annotations

import json

import typer

from dpo_recipes.cli.options import JsonOption
from dpo_recipes.recipe.load import load_file
from dpo_recipes.shipped import recipe_paths


def ls(json_: JsonOption = False) -> None:
    """List the shipped recipes."""
    rows = [
        {"name": name, "summary": str(load_file(path).data.get("summary", "")), "path": str(path)}
        for name, path in recipe_paths().items()
    ]
    if json_:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        typer.echo(f"{row['name']:<{width}}  {row['summary']}")
