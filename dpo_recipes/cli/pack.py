"""`dpo-recipe pack`: a recipe with everything that it consists of in one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from dpo_recipes.artifacts import store
from dpo_recipes.artifacts.pack import DATA_LIMIT_MB, PackOptions
from dpo_recipes.artifacts.pack import pack as pack_recipe
from dpo_recipes.artifacts.run_files import RunToPack
from dpo_recipes.artifacts.signature import find_signer
from dpo_recipes.cli.artifact_text import describe_artifact, plain_artifact
from dpo_recipes.cli.options import JsonOption, RecipeArgument, find_recipe
from dpo_recipes.cli.progress import write_message
from dpo_recipes.cli.runs import OutputDirOption
from dpo_recipes.finished_run import open_run
from dpo_recipes.jobs.chain_file import validate_file
from dpo_recipes.run_dir import find_output_dir
from dpo_recipes.runs import find_run


def pack(  # noqa: PLR0913, PLR0917  (a parameter is an option)
    recipe: RecipeArgument,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file to write. Absent: NAME.recipe.tar.", show_default=False),
    ] = None,
    with_data: Annotated[
        bool, typer.Option("--with-data", help="Pack the data in local files too. Needs `--data-licence`.")
    ] = False,
    data_licence: Annotated[
        str | None,
        typer.Option(help="The terms of the data, such as CC-BY-4.0, which go into the artifact.", metavar="TEXT"),
    ] = None,
    data_limit: Annotated[
        float, typer.Option(help="The maximum size of the data in MB.", min=0.0, metavar="MB")
    ] = DATA_LIMIT_MB,
    with_results: Annotated[
        str | None,
        typer.Option(help="Pack the results and the report of a finished run of the recipe.", metavar="RUN"),
    ] = None,
    with_adapter: Annotated[
        bool,
        typer.Option(
            "--with-adapter",
            help="Pack the adapter that the run has trained, or the one that the recipe continues; safetensors only.",
        ),
    ] = False,
    sign: Annotated[
        Path | None, typer.Option(help="Sign it with this SSH key, for example ~/.ssh/id_ed25519.", metavar="KEY")
    ] = None,
    output_dir: OutputDirOption = "runs",
    json_: JsonOption = False,
) -> None:
    """Make one file of a recipe and all that it consists of.

    These are its parents, the recipes of its steps, its templates and its lock, and on request more. The same files
    give the same bytes. Paths of this machine and secrets are refused.
    """
    if with_data != (data_licence is not None):
        missing = "--data-licence TEXT, the terms under which others may use the data" if with_data else "--with-data"
        raise typer.BadParameter(f"add {missing}", param_hint="--with-data, --data-licence")
    path = find_recipe(recipe)
    validate_file(path)
    run = None
    if with_results is not None:
        finished = open_run(find_run(with_results, find_output_dir(output_dir)).path)
        run = RunToPack(finished.run, finished.recipe.name, finished.result.saved == "adapter")
    packed = pack_recipe(path, output, PackOptions(data_licence, data_limit, run, with_adapter, sign))
    store.allow(packed.digest)
    signer = find_signer(packed.manifest_bytes, packed.signature, None, packed.shown)
    if json_:
        typer.echo(json.dumps(plain_artifact(packed, signer), indent=2, ensure_ascii=False))
        return
    typer.echo(str(packed.path))
    write_message("".join(f"{line}\n" for line in [*describe_artifact(packed), f"signer    {signer}"]))
