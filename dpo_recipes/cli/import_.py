"""`dpo-recipe import`: a configuration of another tool as a recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from dpo_recipes.cli.import_text import describe_import
from dpo_recipes.cli.options import JsonOption, write_output
from dpo_recipes.errors import RecipeError
from dpo_recipes.share.foreign.importer import import_file


def import_(
    file: Annotated[
        Path,
        typer.Argument(help="A configuration in YAML or JSON, or a shell script with a command line.", metavar="FILE"),
    ],
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="The tool: axolotl, handbook, llama-factory, llama-factory-v1, ms-swift, oumi or trl. Absent: it is "
            "found by its keys.",
            metavar="TOOL",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The recipe to write; without it the text goes to stdout."),
    ] = None,
    objective: Annotated[
        str, typer.Option(help="What is trained, if the file does not say it: dpo, kto, orpo, ...", show_default=False)
    ] = "",
    json_: JsonOption = False,
) -> None:
    """Turn a configuration of Axolotl, LLaMA-Factory, TRL, the alignment handbook, oumi or ms-swift into a recipe.
    Every key is accounted for. Nothing is run or overwritten."""
    if output is not None and output.exists():
        raise RecipeError.of("U401", f"{output} exists already", why="nothing is overwritten", fix="give another path")
    imported = import_file(file, tool=from_, kind=objective, to=output)
    if output is not None:
        write_output(output, imported.text)
    typer.echo(describe_import(imported, output), err=True)
    if json_:
        typer.echo(json.dumps(imported.to_json(), indent=2, ensure_ascii=False))
    elif output is None:
        typer.echo(imported.text, nl=False)
    else:
        typer.echo(str(output))
