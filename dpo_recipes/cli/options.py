"""Arguments and options that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

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
        help="Processes in all, one a device, instead of the recipe's number. The effective batch stays.",
    ),
]
NodesOption = Annotated[
    int | None, typer.Option("--num-nodes", min=1, help="Machines that share the processes, instead of the recipe's.")
]
