"""`dpo-recipe show`: every value of a recipe and where it came from, and the graph of a chain."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import typer

from dpo_recipes.cli.chain_text import describe_graph
from dpo_recipes.cli.options import JsonOption, RecipeArgument, SetOption, find_recipe
from dpo_recipes.errors import path_text
from dpo_recipes.jobs.chain_file import ValidatedChain, validate_file
from dpo_recipes.recipe.compose import Composed
from dpo_recipes.recipe.dump import plain_recipe
from dpo_recipes.recipe.load import DataPath


def show(recipe: RecipeArgument, set_: SetOption = None, json_: JsonOption = False) -> None:
    """Print every value with its origin: a file and line, a parent, --set, or the default. Of a chain: the graph, and
    the values of each step."""
    validated = validate_file(find_recipe(recipe), set_)
    if isinstance(validated, ValidatedChain):
        _show_chain(validated, json_=json_)
        return
    plain = plain_recipe(validated.recipe)
    if json_:
        values = {"recipe": plain, "origins": _origins(plain, validated.composed)}
        typer.echo(json.dumps(values, indent=2, ensure_ascii=False))
        return
    for line in _table(plain, validated.composed):
        typer.echo(line)


def _show_chain(validated: ValidatedChain, *, json_: bool) -> None:
    steps = {step.name: step.kind.plain(step.checked.settings) for step in validated.steps}
    if json_:
        plain = [
            {
                "name": step.name,
                "kind": step.kind.kind,
                "makes": step.product.kind,
                "needs": {path_text(need.at): need.step.name for need in step.needs},
                "settings": steps[step.name],
                "origins": _origins(steps[step.name], step.checked.composed),
            }
            for step in validated.steps
        ]
        typer.echo(json.dumps({"chain": validated.chain.name, "steps": plain}, indent=2, ensure_ascii=False))
        return
    for line in describe_graph(validated):
        typer.echo(line)
    for step in validated.steps:
        typer.echo(f"\nstep {step.name}")
        for line in _table(steps[step.name], step.checked.composed):
            typer.echo(f"  {line}")


def _table(plain: dict[str, Any], composed: Composed) -> Iterator[str]:
    """A line for each value."""
    rows = [(path_text(path), json.dumps(value, ensure_ascii=False), path) for path, value in _leaves(plain)]
    name_width = max(len(name) for name, _, _ in rows)
    value_width = min(44, max(len(value) for _, value, _ in rows))
    for name, value, path in rows:
        yield f"{name:<{name_width}}  {value:<{value_width}}  # {_origin(path, composed)}"


def _origins(plain: dict[str, Any], composed: Composed) -> dict[str, str]:
    return {path_text(path): _origin(path, composed) for path, _ in _leaves(plain)}


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
