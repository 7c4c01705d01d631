"""`dpo-recipe launch`: a recipe as the job file of another system."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpo_recipes import registry
from dpo_recipes.cli.options import NodesOption, ProcessesOption, RecipeArgument, SetOption, find_recipe, write_output
from dpo_recipes.jobs.chain_file import validate_recipe
from dpo_recipes.launch.batch import count_processes, plan_batch
from dpo_recipes.launch.manifest import ExportRequest


def launch(  # noqa: PLR0913, PLR0917  (a parameter is an option)
    recipe: RecipeArgument,
    export: Annotated[
        str, typer.Option(help="The system: skypilot or kubernetes.", metavar="SYSTEM", show_default=False)
    ],
    output: Annotated[Path | None, typer.Option(help="The file to write; without it the text goes to stdout.")] = None,
    set_: SetOption = None,
    num_processes: ProcessesOption = None,
    num_nodes: NodesOption = None,
    image: Annotated[str | None, typer.Option(help="Kubernetes: a container image with dpo-recipe in it.")] = None,
    claim: Annotated[
        str | None, typer.Option(help="Kubernetes: a PersistentVolumeClaim for runs and caches.", metavar="NAME")
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(help="Kubernetes: a Secret with variables such as HF_TOKEN. Repeatable.", metavar="NAME"),
    ] = None,
) -> None:
    """Write a recipe as a job file for another system. Nothing is started."""
    validated = validate_recipe(find_recipe(recipe), set_, "launch")
    wanted = validated.recipe.launch
    request = ExportRequest(
        validated,
        num_processes or (None if wanted.num_processes == "auto" else wanted.num_processes),
        num_nodes or wanted.num_nodes,
        image,
        claim,
        tuple(secret or ()),
    )
    processes = request.num_processes or request.num_nodes
    counts = count_processes(validated.recipe, 0, num_processes=processes, num_nodes=request.num_nodes)
    plan_batch(validated.recipe, *counts)  # what would be refused there is refused here
    try:
        text = registry.load("exporters", export)(request)
    except KeyError as error:
        raise typer.BadParameter(error.args[0], param_hint="--export") from None
    if output is None:
        typer.echo(text, nl=False)
        return
    write_output(output, text)
    typer.echo(str(output))
