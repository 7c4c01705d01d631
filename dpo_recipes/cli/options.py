"""Arguments and options that several commands share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dpo_recipes.artifacts import references
from dpo_recipes.errors import RecipeError

RecipeArgument = Annotated[
    str,
    typer.Argument(
        help="A recipe: its path, the name of a shipped one, an artifact, or an address (docs/sharing.md).",
        metavar="RECIPE",
    ),
]
ReferenceArgument = Annotated[
    str,
    typer.Argument(
        help="An artifact or a recipe: a path, the name of a shipped recipe, https://...#sha256=..., hf://OWNER/NAME "
        "or oci://REGISTRY/NAME:TAG.",
        metavar="REF",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Override a value, e.g. --set training.learning_rate=1e-5. Repeatable.", metavar="KEY=VALUE"
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
ProcessesOption = Annotated[
    int | None,
    typer.Option(
        "--num-processes",
        min=1,
        help="Total number of processes, one for each device. The effective batch stays the same.",
    ),
]
NodesOption = Annotated[
    int | None, typer.Option("--num-nodes", min=1, help="Number of machines that share the processes.")
]
RewardFunctionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--reward-function",
        help="Allow a function of the recipe's `rewards`: a Python file and a name in it. Repeatable.",
        metavar="FILE.py:NAME",
    ),
]


def find_recipe(reference: str) -> Path:
    """The file of a recipe that a command names, by any kind of reference. Raises what `references.find` raises."""
    return references.find_recipe(reference, show_note)


def show_note(text: str) -> None:
    """Tell a person what has happened on the way to a recipe."""
    print(f"note: {text}", file=sys.stderr)


def read_functions(given: list[str] | None) -> tuple[str, ...]:
    """The functions that a person allows, with absolute paths, as a recipe has them."""
    parts = [text.rpartition(":") for text in given or ()]
    return tuple(f"{Path(path).expanduser().resolve()}:{name}" for path, _, name in parts)


def write_output(path: Path, text: str) -> None:
    """Write the file that a person has named. Raises `RecipeError` U402."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RecipeError.of(
            "U402", f"cannot write {path}", why=error.strerror or str(error), fix="choose another folder"
        ) from error


def short_path(path: str | Path) -> str:
    """A path relative to the current folder, if it is below it."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return str(path)
