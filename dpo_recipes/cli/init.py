"""`dpo-recipe init`: write a commented recipe for one's own model and data."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Annotated

import typer

from dpo_recipes import registry
from dpo_recipes.cli.new_recipe import ROW_HINTS, new_recipe
from dpo_recipes.cli.options import write_output
from dpo_recipes.errors import RecipeError
from dpo_recipes.objectives import DEFAULT_KIND, get_objective
from dpo_recipes.recipe.compose import compose


def init(
    to: Annotated[Path, typer.Argument(help="The recipe to write.", metavar="TO")] = Path("recipe.yaml"),
    model: Annotated[str | None, typer.Option(help="Base model: hub id or local folder.")] = None,
    data: Annotated[str | None, typer.Option(help="Training data: a file or a hub dataset.")] = None,
    objective: Annotated[str, typer.Option(help="What is trained, by its `kind` in docs/recipe.md.")] = DEFAULT_KIND,
    name: Annotated[str | None, typer.Option(help="Name of the job.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Full fine-tuning instead of LoRA.")] = False,
) -> None:
    """Write a commented recipe. Asks for values that are not given as a flag."""
    if to.exists():
        raise RecipeError.of("U401", f"{to} exists already", why="nothing is overwritten", fix="give another path")
    if objective not in registry.names("objectives"):
        raise _unknown_objective(objective)
    hint = ROW_HINTS[get_objective(objective).rows]
    name = name or _ask("Name of the job", "--name", to.stem)
    model = model or _ask("Base model (hub id or folder)", "--model", "Qwen/Qwen2-0.5B-Instruct")
    data = data or _ask(f"{hint.noun} (file or hub dataset)", "--data", hint.example)
    write_output(to, new_recipe(name=name, model=model, data=data, kind=objective, full=full))
    compose(to)
    typer.echo(str(to))
    typer.echo(f"now: dpo-recipe validate {to}", err=True)


def _ask(question: str, flag: str, default: str) -> str:
    if not sys.stdin.isatty():
        if flag == "--name":
            return default
        raise RecipeError.of(
            "U404",
            f"{flag} is missing",
            why="there is no terminal to ask on",
            fix=f"add {flag}, for example {flag} {default}",
        )
    return typer.prompt(question, default=default, err=True)


def _unknown_objective(kind: str) -> RecipeError:
    kinds = registry.names("objectives")
    near = difflib.get_close_matches(kind, kinds, n=1, cutoff=0.5)
    return RecipeError.of(
        "U405",
        f"there is no objective `{kind}`",
        why=f"it is one of {', '.join(kinds)}",
        fix=f"did you mean `--objective {near[0]}`?" if near else "choose one of these",
    )
