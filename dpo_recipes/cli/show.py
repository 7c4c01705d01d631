"""`dpo-recipe show`: every value of a recipe and where it came from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import typer

from dpo_recipes.cli.options import JsonOption, RecipeArgument, SetOption
from dpo_recipes.errors import path_text
from dpo_recipes.recipe.compose import Composed
from dpo_recipes.recipe.dump import plain_recipe
from dpo_recipes.recipe.load import DataPath
from dpo_recipes.recipe.validate import validate
from dpo_recipes.shipped import find_recipe


def show(recipe: RecipeArgument, set_: SetOption = None, json_: JsonOption = False) -> None:
    """Print every value with its origin: a file and line, a parent, --set, or the default."""
    validated = validate(find_recipe(recipe), set_)
    plain = plain_recipe(validated.recipe)
    rows = [(path_text(path), value, _origin(path, validated.composed)) for path, value in _leaves(plain)]
    if json_:
        origins = {path: origin for path, _, origin in rows}
        typer.echo(json.dumps({"recipe": plain, "origins": origins}, indent=2, ensure_ascii=False))
        return
    name_width = max(len(path) for path, _, _ in rows)
    values = [json.dumps(value, ensure_ascii=False) for _, value, _ in rows]
    value_width = min(44, max(map(len, values)))
    for (path, _, origin), value in zip(rows, values, strict=True):
        typer.echo(f"{path:<{name_width}}  {value:<{value_width}}  # {origin}")


def _leaves(value: Any, path: DataPath = ()) -> Iterator[tuple[DataPath, Any]]:
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from _leaves(child, (*path, key))
    elif isinstance(value, list) and any(isinstance(child, dict) for child in value):
        for index, child in enumerate(value):
            yield from _leaves(child, (*path, index))
    else:
        yield path, value


def _origin(path: DataPath, composed: Composed) -> str:
    origin = composed.origins.get(path)
    if origin is None:
        return "default"
    notes = {"parent": " (inherited)", "resolved": " (path made absolute)"}
    return f"{origin}{notes.get(origin.kind, '')}"
