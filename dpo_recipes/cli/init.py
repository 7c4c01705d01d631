"""`dpo-recipe init`: write a commented recipe for one's own model and data."""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from dpo_recipes.cli.options import write_output
from dpo_recipes.errors import RecipeError
from dpo_recipes.recipe.compose import compose
from dpo_recipes.recipe.load import resolve_scalar


def init(
    to: Annotated[Path, typer.Argument(help="The recipe to write.", metavar="TO")] = Path("recipe.yaml"),
    model: Annotated[str | None, typer.Option(help="Base model: hub id or local folder.")] = None,
    data: Annotated[str | None, typer.Option(help="Preference pairs: a file or a hub dataset.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the job.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Full fine-tuning instead of LoRA.")] = False,
) -> None:
    """Write a commented recipe. Asks for values that are not given as a flag."""
    if to.exists():
        raise RecipeError.of("U401", f"{to} exists already", why="nothing is overwritten", fix="give another path")
    name = name or _ask("Name of the job", "--name", to.stem)
    model = model or _ask("Base model (hub id or folder)", "--model", "Qwen/Qwen2-0.5B-Instruct")
    data = data or _ask("Preference pairs (file or hub dataset)", "--data", "trl-lib/ultrafeedback_binarized")
    template = resources.files("dpo_recipes.cli").joinpath("new_recipe.yaml").read_text(encoding="utf-8")
    adapter = "null  # full fine-tuning" if full else "{kind: lora, r: 16, alpha: 32}"
    text = (
        template.replace("@name@", _quoted(name))
        .replace("@model@", _quoted(model))
        .replace("@data@", _quoted(data))
        .replace("@adapter@", adapter)
        .replace("@learning_rate@", "1e-6" if full else "2e-5")
    )
    write_output(to, text)
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


def _quoted(text: str) -> str:
    """The text as a YAML scalar; quoted where it would read as something else."""
    plain = isinstance(resolve_scalar(text), str) and text[0] != "-" and all(c.isalnum() or c in "/._-=~" for c in text)
    return text if plain else "'" + text.replace("'", "''") + "'"
