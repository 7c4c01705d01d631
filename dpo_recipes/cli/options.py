"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpo_recipes.errors import RecipeError

RecipeArgument = Annotated[
    str, typer.Argument(help="Path of a recipe, or the name of a shipped one.", metavar="RECIPE")
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
