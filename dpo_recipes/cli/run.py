"""`dpo-recipe run`: run the whole job."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from dpo_recipes.cli.options import JsonOption, NodesOption, ProcessesOption, RecipeArgument, SetOption
from dpo_recipes.errors import EXIT_BUG
from dpo_recipes.launch.choose import LaunchFlags
from dpo_recipes.launch.slurm_settings import read_slurm_settings
from dpo_recipes.recipe.validate import validate
from dpo_recipes.shipped import find_recipe
from dpo_recipes.supervise import WorkerBug
from dpo_recipes.workflow import run_recipe


def run(  # noqa: PLR0913, PLR0917  (a parameter is an option)
    recipe: RecipeArgument,
    set_: SetOption = None,
    json_: JsonOption = False,
    fit: Annotated[
        bool, typer.Option("--fit", help="Change micro-batch, checkpointing and optimizer so that the run fits.")
    ] = False,
    resume: Annotated[
        bool | None,
        typer.Option(
            "--resume/--no-resume",
            help="Resume the newest unfinished run, or start a new one. Without either: resume it if the recipe is "
            "the same.",
        ),
    ] = None,
    retries: Annotated[
        int, typer.Option(help="Start again up to this many times when a process is killed, hangs or crashes.", min=0)
    ] = 0,
    num_processes: ProcessesOption = None,
    num_nodes: NodesOption = None,
    rendezvous: Annotated[
        str | None,
        typer.Option(help="The rendezvous of several nodes: the first one's name, a free port.", metavar="HOST:PORT"),
    ] = None,
    via: Annotated[
        str | None, typer.Option(help="How workers start, instead of `launch.backend`: slurm, for example.")
    ] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option(help="An option for sbatch, e.g. --slurm partition=gpu. Repeatable.", metavar="KEY=VALUE"),
    ] = None,
    slurm_setup: Annotated[
        Path | None, typer.Option(help="A file of shell lines that a SLURM job runs before the workers.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Allow a model that needs Python code from its repository.")
    ] = False,
) -> None:
    """Validate a recipe, train, evaluate, report. Ctrl-C stops at a checkpoint; the same command resumes from it."""
    from dpo_recipes.cli.progress import Progress

    overrides = [*(set_ or []), *(["hardware.fit=true"] if fit else [])]
    overrides += [f"launch.backend={via}"] if via else []
    if (slurm or slurm_setup) and (via or validate(find_recipe(recipe), set_).recipe.launch.backend) != "slurm":
        raise typer.BadParameter("add `--via slurm`, or leave it out", param_hint="--slurm, --slurm-setup")
    slurm_settings = read_slurm_settings(slurm or [], slurm_setup)
    with Progress() as progress:
        try:
            finished = run_recipe(
                find_recipe(recipe),
                overrides,
                progress.on_event,
                trust_remote_code=trust_remote_code,
                resume=resume,
                retries=retries,
                flags=LaunchFlags(num_processes, num_nodes, rendezvous),
                slurm_settings=slurm_settings,
            )
        except WorkerBug as bug:
            progress.close()
            print(f"error: this is a bug in dpo-recipe: {bug}", file=sys.stderr)
            raise typer.Exit(EXIT_BUG) from None
    if finished is None:
        elsewhere = "on the node of the first process"
        if json_:
            typer.echo(json.dumps({"status": "finished", "result": elsewhere}, indent=2))
        else:
            print(f"done      the result is {elsewhere}", file=sys.stderr)
    elif json_:
        typer.echo(json.dumps(finished.result.to_json(), indent=2, ensure_ascii=False))
    else:
        from dpo_recipes.cli.next_steps import describe_next_steps
        from dpo_recipes.cli.progress import write_message

        progress.summary(finished)
        again = ["dpo-recipe", "run", recipe, *(word for override in overrides for word in ("--set", override))]
        write_message("".join(f"{line}\n" for line in describe_next_steps(finished, again)))
