"""`dpo-recipe cp`: copy a shipped recipe, its parents and the data it uses, as a start for one's own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from dpo_recipes.errors import RecipeError
from dpo_recipes.recipe.load import load_file
from dpo_recipes.shipped import recipe_paths, recipes_folder

EDITOR_SCHEMA = "schema.json"  # named in the first line of each shipped recipe


def cp(
    name: Annotated[str, typer.Argument(help="A shipped recipe; `dpo-recipe ls` lists them.", metavar="NAME")],
    to: Annotated[Path, typer.Argument(help="A file or folder to copy to.", metavar="TO")] = Path(),
) -> None:
    """Copy a shipped recipe with the recipes that it extends or names and the data files it uses. Never overwrites."""
    source = recipe_paths().get(name)
    if source is None:
        raise RecipeError.of(
            "R101",
            f"there is no shipped recipe {name}",
            why=f"there are {', '.join(recipe_paths())}",
            fix="choose one of these",
        )
    target = to / source.name if to.is_dir() or not to.suffix else to
    files = {source: target}
    for recipe in _with_parents(source):
        named = [*_local_files(load_file(recipe).data), EDITOR_SCHEMA]
        beside = [recipe, *(recipes_folder() / relative for relative in named)]
        files |= {path: target.parent / path.relative_to(recipes_folder()) for path in beside if path != source}
    for origin, path in list(files.items()):
        if not path.exists():
            continue
        if origin.name == EDITOR_SCHEMA or (origin != source and path.read_bytes() == origin.read_bytes()):
            del files[origin]  # it came with another recipe
        else:
            raise RecipeError.of(
                "U401",
                f"{path} exists already",
                why="nothing is overwritten",
                fix="copy to another folder, or move it away",
            )
    try:
        for origin, path in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(origin, path)
            typer.echo(str(path))
    except OSError as error:
        raise RecipeError.of(
            "U402", f"cannot write {error.filename}", why=error.strerror or str(error), fix="choose another folder"
        ) from error


def _with_parents(recipe: Path) -> list[Path]:
    """A shipped recipe and those that it extends or that its steps name, which are in the same folder."""
    data = load_file(recipe).data
    named = [data.get("extends"), *(step.get("recipe") for step in data.get("steps", {}).values())]
    found = [recipe]
    for name in dict.fromkeys(name for name in named if name):
        found += _with_parents(recipe.parent / name)
    return found


def _local_files(data: object) -> list[str]:
    """Every text in the recipe that names a file in a folder beside it."""
    if isinstance(data, dict):
        return [name for value in data.values() for name in _local_files(value)]
    if isinstance(data, list):
        return [name for value in data for name in _local_files(value)]
    if isinstance(data, str) and "/" in data and (recipes_folder() / data).is_file():
        return [data]
    return []
