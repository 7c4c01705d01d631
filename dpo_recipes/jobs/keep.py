"""Removes the models and checkpoints of runs that are not the best, if the recipe says `sweep.keep: best`.

What is removed follows from the results of the runs alone, so that any command can do it at any time, and again after
a kill. A run that another command has claimed is left to that command.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from dpo_recipes.errors import RunError
from dpo_recipes.jobs.directory import SweepDirectory
from dpo_recipes.jobs.job_run import lock_of
from dpo_recipes.jobs.sweep_result import SweepResult
from dpo_recipes.jobs.trial_run import TrialRun
from dpo_recipes.locks import held, is_held
from dpo_recipes.objectives.metric import Metric
from dpo_recipes.resume import read_if_valid
from dpo_recipes.run_dir import MODEL_FOLDER, RunDirectory, written_to

_REMOVED = f"{MODEL_FOLDER}.removed"
"""A model folder that is being removed: a part of a model must not have the name of a whole one."""


def remove_losers(runs: Sequence[TrialRun], metric: Metric, own: TrialRun | None = None) -> None:
    """Remove the models and checkpoints of the finished runs that cannot be the best any more. `own` is claimed by
    this process."""
    if _keeps_best(runs):
        _remove((run for run in _losers(runs, metric) if run == own or not run.is_claimed), runs)


def remove_all_but(best: str, runs: Sequence[TrialRun]) -> None:
    """Remove the models and checkpoints of all runs of a sweep whose runs have ended, but those of the best run, which
    is named by its directory relative to the sweep's."""
    if _keeps_best(runs):
        chosen = runs[0].sweep.path / best
        _remove((run for run in runs if run.run.path != chosen and not run.is_claimed), runs)


def _keeps_best(runs: Sequence[TrialRun]) -> bool:
    sweep = runs[0].validated.recipe.sweep
    return sweep is not None and sweep.keep == "best"


def _losers(runs: Sequence[TrialRun], metric: Metric) -> Iterator[TrialRun]:
    """The finished runs than which another one is better already. With several seeds the mean of a trial may still
    change, and only the best run of each trial can become that of the sweep. Of equal runs the first one stays."""
    groups: dict[int, list[TrialRun]] = {}
    for run in runs:
        if run.state == "finished":
            groups.setdefault(run.number if run.has_seeds else 0, []).append(run)
    for group in groups.values():
        best, value = group[0], group[0].value(metric)
        for run in group[1:]:
            other = run.value(metric)
            if metric.is_better(other, value):
                best, value = run, other
        yield from (run for run in group if run != best)


def _remove(losers: Iterable[TrialRun], runs: Sequence[TrialRun]) -> None:
    sweep = runs[0].sweep
    with written_to(RunDirectory(sweep.path)), held(runs[0].folder / "keep.lock"):
        for loser in losers:
            for folder in _removed_of(loser.run.shared_run):
                remove_folder(folder)


def _removed_of(run: RunDirectory) -> Iterator[Path]:
    """The folders of a run that are not kept and exist."""
    for folder in (run.path / _REMOVED, run.checkpoints, run.path / MODEL_FOLDER):
        if folder.exists():
            yield folder


def remove_folder(folder: Path) -> None:
    """Delete one of a run's folders. At each moment the model is whole or has another name."""
    if folder.name == MODEL_FOLDER:
        folder = folder.rename(folder.with_name(_REMOVED))
    shutil.rmtree(folder)


def find_remains(sweep: SweepDirectory) -> list[Path]:
    """The folders that a sweep with `keep: best` has not removed although it has ended, because its command was killed:
    those of all runs but the best one. Nothing if its files cannot be read."""
    recipe = read_if_valid(sweep.resolved_recipe)
    if recipe is None or recipe.sweep is None or recipe.sweep.keep != "best" or not sweep.result.exists():
        return []
    try:
        result = SweepResult.read(sweep.result)
    except RunError:
        return []
    if result.best is None:
        return []
    runs = [run.directory for trial in result.trials for run in trial.runs if run.directory != result.best.run]
    free = [sweep.path / run for run in runs if not is_held(lock_of(sweep.path / run))]
    return [folder for run in free for folder in _removed_of(RunDirectory(run).shared_run)]
