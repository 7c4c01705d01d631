"""`dpo-recipe reproduce`: do the job of a finished run again, and compare."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from dpo_recipes.cli.options import JsonOption, RewardFunctionOption, read_functions, short_path
from dpo_recipes.cli.progress import Progress, worker_bugs, write_message
from dpo_recipes.cli.reproduce_text import describe_comparison
from dpo_recipes.cli.runs import OutputDirOption
from dpo_recipes.errors import EXIT_SHARING
from dpo_recipes.finished_run import open_run
from dpo_recipes.run_dir import find_output_dir
from dpo_recipes.runs import find_run


def reproduce(
    run: Annotated[
        str, typer.Argument(help="A finished run: its directory, or the last part of its name.", metavar="RUN")
    ],
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Compare only the first steps, and end the second run after them.", metavar="N"),
    ] = None,
    output_dir: OutputDirOption = "runs",
    json_: JsonOption = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Allow a model that needs Python code from its repository.")
    ] = False,
    reward_function: RewardFunctionOption = None,
) -> None:
    """Do the job of a finished run again and compare: inputs, reference, losses, metrics, weights.

    Exit code 0 if they are equal to the bit or within what the device allows, 7 if they differ.
    """
    from dpo_recipes.share.reproduce import ReproduceOptions
    from dpo_recipes.share.reproduce import reproduce as do_again

    folder = find_output_dir(output_dir)
    finished = open_run(find_run(run, folder).path)
    options = ReproduceOptions(steps, trust_remote_code, read_functions(reward_function))
    with worker_bugs(), Progress() as progress:
        comparison = do_again(finished, folder, progress.on_event, options)
    if json_:
        typer.echo(json.dumps(comparison.to_json(), indent=2, ensure_ascii=False))
    else:
        typer.echo("\n".join(describe_comparison(comparison)))
        write_message(f"again     {short_path(comparison.again)}\n")
    raise typer.Exit(EXIT_SHARING if comparison.verdict == "different" else 0)
