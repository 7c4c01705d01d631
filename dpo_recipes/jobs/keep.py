"""Removes the models and checkpoints of runs that are not the best, if the recipe says `sweep.keep: best`.

What is removed follows from the results of the runs alone, so that any command can do it at any time, and again after
a kill. A run that another command has claimed is left to that command.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence

from dpo_recipes.jobs.trial_run import TrialRun
from dpo_recipes.locks import held
from dpo_recipes.objectives.base import Metric
from dpo_recipes.run_dir import MODEL_FOLDER, RunDirectory, written_to

_REMOVED = f"{MODEL_FOLDER}.removed"
"""A model folder that is being removed: a part of a model must not have the name of a whole one."""


def remove_losers(runs: Sequence[TrialRun], metric: Metric, own: TrialRun | None = None) -> None:
    """Remove the models and checkpoints of the finished runs that cannot be the best any more. `own` is claimed by
    this process."""
    if _keeps_best(runs):
        _remove((run for run in _losers(runs, metric) if run == own or not run.is_claimed), runs)


def remove_all_but(best: str, runs: Sequence[TrialRun]) -> None:
    """Remove the models and checkpoints of all runs of a sweep that has ended, but those of the best run, which is
    named by its directory relative to the sweep's."""
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
            run = loser.run.shared_run
            model, removed = run.path / MODEL_FOLDER, run.path / _REMOVED
            for folder in (removed, run.checkpoints):
                if folder.exists():
                    shutil.rmtree(folder)
            if model.exists():
                model.rename(removed)
                shutil.rmtree(removed)
