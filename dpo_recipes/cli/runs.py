"""`dpo-recipe runs`: list the runs below an output directory, show one, and remove those that are not needed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from dpo_recipes.artifacts.origin import read_origin
from dpo_recipes.cli.chain_text import describe_chain
from dpo_recipes.cli.options import JsonOption
from dpo_recipes.cli.runs_text import describe_removal, describe_run, describe_runs
from dpo_recipes.errors import RecipeError, RunError
from dpo_recipes.jobs.chain_directory import ChainDirectory, unfinished_chain
from dpo_recipes.jobs.chain_result import ChainResult
from dpo_recipes.removal import (
    PruneRules,
    check_removable,
    choose_removable,
    remains_of_sweeps,
    remove_job,
    remove_remains,
    remove_run,
)
from dpo_recipes.run_dir import find_output_dir
from dpo_recipes.run_result import read_result
from dpo_recipes.runs import RunSummary, find_job, find_run, find_runs, list_runs, summarize

OutputDirOption = Annotated[
    str, typer.Option("--output-dir", help="The folder with the runs, `output_dir` of the recipes.", metavar="DIR")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")]
UnfinishedOption = Annotated[
    bool, typer.Option("--unfinished", help="Also remove runs that could be resumed; never one that is running.")
]
BestOption = Annotated[bool, typer.Option("--best", help="Also remove the best run of a recipe or of a sweep.")]

app = typer.Typer(
    name="runs",
    help="List the runs, newest first: state, best metric, steps, size on disk, age.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def runs(context: typer.Context, output_dir: OutputDirOption = "runs", json_: JsonOption = False) -> None:
    """List the runs, newest first: state, best metric, steps, size on disk, age."""
    if context.invoked_subcommand is not None:
        return
    folder = _existing(output_dir)
    summaries = list_runs(folder)
    if json_:
        typer.echo(json.dumps([summary.to_json() for summary in summaries], indent=2))
    elif summaries:
        typer.echo("\n".join(describe_runs(summaries, folder)))
    else:
        print(f"there are no runs in {folder}", file=sys.stderr)


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="A run directory, or the last part of its name.", metavar="RUN")],
    output_dir: OutputDirOption = "runs",
    json_: JsonOption = False,
) -> None:
    """Show one run: its state and the reason, its metrics against the base, its costs and files. Or the steps of a
    chain."""
    folder = find_output_dir(output_dir)
    job = find_job(run, folder)
    if isinstance(job, ChainDirectory):
        _show_chain(job, json_=json_)
        return
    summary = summarize(find_run(run, folder))
    try:
        result = read_result(summary.run.result) if summary.state == "finished" else None
    except RunError:  # the summary has the reason
        result = None
    if json_:
        plain = {
            **summary.to_json(),
            "origin": read_origin(summary.run),
            "result": result.to_json() if result else None,
        }
        typer.echo(json.dumps(plain, indent=2, ensure_ascii=False))
    else:
        typer.echo("\n".join(describe_run(summary, result)))


def _show_chain(job: ChainDirectory, *, json_: bool) -> None:
    if not job.result.exists():
        raise unfinished_chain(job)
    result = ChainResult.read(job.result)
    if json_:
        typer.echo(json.dumps(result.to_json(), indent=2, ensure_ascii=False))
    else:
        typer.echo("\n".join(describe_chain(result, job)))


@app.command()
def rm(
    runs: Annotated[
        list[str],
        typer.Argument(help="Directories of runs, sweeps or chains, or the last parts of their names.", metavar="RUN"),
    ],
    output_dir: OutputDirOption = "runs",
    unfinished: UnfinishedOption = False,
    best: BestOption = False,
    yes: YesOption = False,
) -> None:
    """Remove runs, or sweeps and chains with all of their runs. Asks first."""
    folder = find_output_dir(output_dir)
    jobs = {job.path: job for job in (find_job(name, folder) for name in runs) if job is not None}
    found = {run.path: run for job in jobs for run in find_runs(job)}
    found |= {run.path: run for run in (find_run(name, folder) for name in runs if find_job(name, folder) is None)}
    summaries = [summarize(run) for run in found.values()]
    check_removable(summaries, unfinished=unfinished, best=best, whole=jobs)
    _remove(summaries, folder, yes=yes)
    for job in jobs.values():
        remove_job(job, folder)


@app.command()
def prune(
    output_dir: OutputDirOption = "runs",
    keep: Annotated[int, typer.Option(help="Keep this number of the newest finished runs of each recipe.", min=0)] = 1,
    older_than: Annotated[
        float, typer.Option(help="Remove only runs that were started more than this number of days ago.", min=0)
    ] = 0,
    unfinished: UnfinishedOption = False,
    best: BestOption = False,
    yes: YesOption = False,
) -> None:
    """Remove failed runs, all finished runs of a recipe but the newest and the best one, and what a killed sweep with
    `keep: best` has left of its other models. Asks first."""
    folder = _existing(output_dir)
    rules = PruneRules(keep, timedelta(days=older_than), unfinished=unfinished, best=best)
    summaries = list_runs(folder)
    chosen = choose_removable(summaries, folder, rules)
    gone = {summary.run.path for summary in chosen}
    remains = [each for each in remains_of_sweeps(summaries) if each.parent not in gone]
    if chosen or remains:
        _remove(chosen, folder, remains, yes=yes)
    else:
        print(f"there is nothing to remove in {folder}", file=sys.stderr)


def _existing(output_dir: str) -> Path:
    folder = find_output_dir(output_dir)
    if not folder.is_dir():
        raise RunError.of(
            "T640",
            f"there is no folder {folder}",
            why="runs are written below `output_dir` of their recipes, relative to the folder where they were started",
            fix="name the folder with `--output-dir`, or start the command where the runs were started",
        )
    return folder


def _remove(summaries: list[RunSummary], folder: Path, remains: Sequence[Path] = (), *, yes: bool) -> None:
    print("\n".join(describe_removal(summaries, folder, remains)), file=sys.stderr)
    if not yes:
        if not _is_terminal():
            raise RecipeError.of(
                "U404", "nothing is removed", why="there is no terminal to ask on", fix="add `--yes` to remove them"
            )
        if not typer.confirm("Remove them?", err=True):
            raise typer.Exit(0)
    for summary in summaries:
        remove_run(summary.run, folder)
        typer.echo(str(summary.run.path))
    for each in remains:
        remove_remains(each)
        typer.echo(str(each))


def _is_terminal() -> bool:
    """Whether there is a person to ask."""
    return sys.stdin.isatty()
