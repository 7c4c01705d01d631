"""`dpo-recipe run`: run the whole job: a recipe, a sweep or a chain."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from dpo_recipes.artifacts.origin import noting_origin
from dpo_recipes.artifacts.references import find
from dpo_recipes.cli.chain_text import describe_chain
from dpo_recipes.cli.lock import show_stage
from dpo_recipes.cli.options import (
    JsonOption,
    NodesOption,
    ProcessesOption,
    RecipeArgument,
    RewardFunctionOption,
    SetOption,
    read_functions,
    short_path,
    show_note,
)
from dpo_recipes.cli.permission import permit
from dpo_recipes.cli.progress import Progress, worker_bugs, write_message
from dpo_recipes.cli.sweep_text import describe_sweep
from dpo_recipes.finished_run import FinishedRun
from dpo_recipes.jobs.chain import FinishedChain, run_chain
from dpo_recipes.jobs.chain_file import ValidatedChain, validate_file
from dpo_recipes.jobs.sweep import FinishedSweep, run_sweep
from dpo_recipes.launch.choose import LaunchFlags
from dpo_recipes.launch.slurm_settings import read_slurm_settings
from dpo_recipes.recipe.validate import Validated
from dpo_recipes.share.lock_file import LockUse, lock_path
from dpo_recipes.workflow import RunOptions, run_recipe


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
    reward_function: RewardFunctionOption = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Run an artifact that is new here without asking. It is shown first.")
    ] = False,
    lock: Annotated[
        LockUse,
        typer.Option(
            help="How a lock beside the recipe is used: everything must be as locked; packages may have other "
            "versions; or it is not read."
        ),
    ] = "strict",
    update_lock: Annotated[bool, typer.Option("--update-lock", help="Make the lock again, then run by it.")] = False,
) -> None:
    """Validate a recipe or chain, train, evaluate, report. Ctrl-C stops at a checkpoint; the same command resumes."""
    overrides = [*(set_ or []), *(["hardware.fit=true"] if fit else [])]
    overrides += [f"launch.backend={via}"] if via else []
    found = find(recipe, show_note)
    permit(found, yes=yes)
    path = found.path
    if update_lock:
        found.check_may_change()
    validated = _locked(path, overrides, lock, update=update_lock)
    if (slurm or slurm_setup) and not _uses_slurm(validated):
        raise typer.BadParameter("add `--via slurm`, or leave it out", param_hint="--slurm, --slurm-setup")
    flags = LaunchFlags(num_processes, num_nodes, rendezvous)
    settings = read_slurm_settings(slurm or [], slurm_setup)
    options = RunOptions(trust_remote_code, retries, flags, settings, read_functions(reward_function))
    with worker_bugs(), Progress() as progress:
        on_event = noting_origin(found, progress.on_event)
        if isinstance(validated, ValidatedChain):
            _show_job(run_chain(validated, on_event, options, resume=resume), progress, json_=json_)
        elif validated.recipe.sweep is not None:
            _show_job(run_sweep(validated, on_event, options, resume=resume), progress, json_=json_)
        else:
            unlocked = ["--lock", "off"] if lock_path(path).is_file() else []  # with other values
            again = [
                "dpo-recipe",
                "run",
                recipe,
                *unlocked,
                *(word for value in overrides for word in ("--set", value)),
            ]
            finished = run_recipe(validated, on_event, options, resume=resume)
            _show_run(finished, progress, again, json_=json_)


def _locked(path: Path, overrides: list[str], use: LockUse, *, update: bool) -> Validated | ValidatedChain:
    """The job in a file, with its hub inputs at the commits of the lock that lies beside it, if there is one."""
    validated = validate_file(path, overrides)
    if not update and (use == "off" or not lock_path(path).is_file()):
        return validated
    from dpo_recipes.share.locked_job import update_lock, with_lock  # they load numpy

    if update:
        update_lock(path, validated, show_stage)
    locked = with_lock(path, overrides, validated, use, show_stage)
    for warning in locked.warnings:
        write_message(f"{warning.render()}\n")
    write_message(f"locked    as in {short_path(lock_path(path).resolve())}\n")
    return locked.validated


def _show_run(finished: FinishedRun | None, progress: Progress, again: list[str], *, json_: bool) -> None:
    """Show the result. `again` is the command that was given."""
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

        progress.summary(finished)
        write_message("".join(f"{line}\n" for line in describe_next_steps(finished, again)))


def _show_job(finished: FinishedSweep | FinishedChain, progress: Progress, *, json_: bool) -> None:
    if json_:
        typer.echo(json.dumps(finished.result.to_json(), indent=2, ensure_ascii=False))
    elif isinstance(finished, FinishedChain):
        progress.lines(["", *describe_chain(finished.result, finished.directory)])
    else:
        progress.lines(describe_sweep(finished))


def _uses_slurm(validated: Validated | ValidatedChain) -> bool:
    """Whether a run is executed by SLURM."""
    if isinstance(validated, ValidatedChain):
        return any(step.kind.devices(step.checked.settings).is_elsewhere for step in validated.steps)
    return validated.recipe.launch.backend == "slurm"
