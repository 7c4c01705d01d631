"""Removes runs that are no longer needed: what must stay, what may go, and how it goes."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dpo_recipes.errors import Finding, RunError
from dpo_recipes.jobs.chain_directory import ChainDirectory
from dpo_recipes.jobs.chain_result import ChainResult
from dpo_recipes.jobs.directory import JobDirectory, SweepDirectory
from dpo_recipes.jobs.keep import find_remains, remove_folder
from dpo_recipes.jobs.sweep_result import SweepResult
from dpo_recipes.launch.slurm import has_job
from dpo_recipes.objectives.metric import LOSS
from dpo_recipes.resume import file_lock
from dpo_recipes.run_dir import RunDirectory, written_to
from dpo_recipes.runs import RunSummary, group_by_recipe


def _job_of(run: RunDirectory) -> JobDirectory | None:
    """The sweep or chain that a run belongs to, if there is one."""
    for kind in (SweepDirectory, ChainDirectory):
        job = kind(run.path.parent.parent)
        if job.runs == run.path.parent and job.resolved_recipe.is_file():
            return job
    return None


def check_removable(summaries: list[RunSummary], *, unfinished: bool, best: bool, whole: Collection[Path] = ()) -> None:
    """Raise `RunError` T643 with a finding for each run that must not be removed. `whole` are the jobs that are removed
    with all of their runs."""
    findings = [
        Finding("T643", f"{summary.run.path} is not removed", why=why, fix=fix)
        for summary in summaries
        for why, fix in reasons_to_keep(summary, unfinished=unfinished, best=best, whole=whole)
    ]
    if findings:
        raise RunError(*findings)


def reasons_to_keep(
    summary: RunSummary, *, unfinished: bool, best: bool, whole: Collection[Path] = ()
) -> Iterator[tuple[str, str]]:
    """Why a run must not be removed, and what a person can do about it. `unfinished` permits runs and jobs that were
    begun and that nothing executes, `best` the best run of a sweep. `whole` are the jobs that are removed with it."""
    job = _job_of(summary.run)
    if summary.state == "running":
        yield "it is still being executed", "stop it first, or wait for it"
    elif has_job(summary.run):
        yield "a SLURM job for it waits in the queue", "cancel the job first, with `scancel`"
    elif not unfinished and summary.state == "unfinished":
        yield "it is unfinished: the same recipe would resume it", "add `--unfinished`"
    elif not unfinished and summary.can_resume:
        yield "it failed and has a checkpoint, from which the same recipe would resume it", "add `--unfinished`"
    elif isinstance(job, SweepDirectory):
        yield from _reasons_of_sweep(summary.run, job, unfinished=unfinished, best=best)
    elif isinstance(job, ChainDirectory) and job.path not in whole:
        yield from _reasons_of_chain(summary.run, job, unfinished=unfinished)


def _reasons_of_chain(run: RunDirectory, job: ChainDirectory, *, unfinished: bool) -> Iterator[tuple[str, str]]:
    if not job.result.exists():
        if not unfinished:
            yield "it is a step of an unfinished chain, which would do it again", "add `--unfinished`"
        return
    with contextlib.suppress(RunError):  # what cannot be read names no steps
        if any(step.directory and job.path / step.directory == run.path for step in ChainResult.read(job.result).steps):
            yield "it is a step of a chain, which would do it again", f"remove the whole chain: {job.path}"


def _reasons_of_sweep(
    run: RunDirectory, sweep: SweepDirectory, *, unfinished: bool, best: bool
) -> Iterator[tuple[str, str]]:
    if not sweep.result.exists():
        if not unfinished:
            yield "it is a trial of an unfinished sweep, which compares its result", "add `--unfinished`"
        return
    with contextlib.suppress(RunError):  # what cannot be read names no best run
        chosen = SweepResult.read(sweep.result).best
        if not best and chosen is not None and sweep.path / chosen.run == run.path:
            yield "it is the best run of its sweep, whose `best/model` leads to its model", "add `--best`"


@dataclass(frozen=True)
class PruneRules:
    """What `choose_removable` keeps."""

    keep: int = 1
    """The number of the newest finished runs of each recipe to keep."""
    older_than: timedelta = timedelta()
    unfinished: bool = False
    """Whether unfinished runs may be removed."""
    best: bool = False
    """Whether the best runs of a recipe or a sweep may be removed."""


def choose_removable(summaries: list[RunSummary], output_dir: Path, rules: PruneRules) -> list[RunSummary]:
    """The runs that nothing needs: not the newest finished ones of their recipe, and not the best one of each objective
    by its metric, if that is the loss, of each loss function. Runs of a job with several runs count as those of one
    recipe."""
    now, chosen = datetime.now(UTC), []
    for group in group_by_recipe(summaries, output_dir).values():
        finished = sorted((s for s in group if s.state == "finished"), key=lambda s: s.started, reverse=True)
        kept = {summary.run for summary in finished[: rules.keep]} | (set() if rules.best else _best_of_each(finished))
        for summary in group:
            is_young = now - summary.started < rules.older_than
            reasons = reasons_to_keep(summary, unfinished=rules.unfinished, best=rules.best)
            if summary.run not in kept and not is_young and not any(reasons):
                chosen.append(summary)
    return chosen


def _best_of_each(finished: list[RunSummary]) -> set[RunDirectory]:
    """The best runs: one of all those whose values of the same metric can be compared."""
    best: dict[tuple[str, str], RunSummary] = {}
    for summary in finished:
        if summary.metric is None:
            continue
        key = summary.metric.key, summary.loss if summary.metric == LOSS else summary.objective
        if key not in best or summary.metric.is_better(summary.value, best[key].value):
            best[key] = summary
    return {summary.run for summary in best.values()}


def remains_of_sweeps(summaries: list[RunSummary]) -> list[Path]:
    """The models and checkpoints of runs that `sweep.keep: best` had to remove, and a kill has left."""
    sweeps = {job.path: job for job in map(_job_of, (one.run for one in summaries)) if isinstance(job, SweepDirectory)}
    return [folder for sweep in sweeps.values() for folder in find_remains(sweep)]


def remove_remains(folder: Path) -> None:
    """Delete a folder of `remains_of_sweeps`. Raises `RunError` T601 if it cannot be deleted."""
    with written_to(RunDirectory(folder.parent)):
        remove_folder(folder)


def remove_run(run: RunDirectory, output_dir: Path) -> None:
    """Delete a run directory, and the folder of its recipe if that is empty then.

    Raises `RunError` T615 if a process works in it, and T601 if it cannot be deleted.
    """
    with written_to(run), file_lock(run.command_lock), file_lock(run.lock):
        shutil.rmtree(run.path)
    _remove_if_empty(run.path.parent, output_dir)


def remove_job(job: JobDirectory, output_dir: Path) -> None:
    """Delete the directory of a sweep or a chain after its runs were removed. Raises `RunError` T601 if it cannot be
    deleted."""
    with written_to(RunDirectory(job.path)):
        shutil.rmtree(job.path)
    _remove_if_empty(job.path.parent, output_dir)


def _remove_if_empty(folder: Path, output_dir: Path) -> None:
    if folder != output_dir and folder.is_relative_to(output_dir) and folder.name not in ("trials", "steps"):
        with contextlib.suppress(OSError):  # it has other files
            folder.rmdir()
