"""Works on a sweep: claims one run after the other until all have ended.

Several processes can do this in one directory. One that finds nothing left to claim waits for the others, because a run
whose process is killed is free again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from dpo_recipes.errors import DpoRecipeError, Interrupted
from dpo_recipes.jobs.outcome import sweep_metric
from dpo_recipes.jobs.pruning import Pruner
from dpo_recipes.jobs.tpe import propose
from dpo_recipes.jobs.trial_run import TrialRun
from dpo_recipes.resume import is_running, wait_for_workers
from dpo_recipes.supervise import EventHandler, WorkerBug
from dpo_recipes.workflow import RunOptions, run_recipe

_LOOK_EVERY_S = 1.0
_OF_THE_MACHINE = ("T601", "T602", "T615")
"""Errors that say nothing about a trial: the folder cannot be written to, or another process works in it."""


def work(runs: Sequence[TrialRun], on_event: EventHandler, options: RunOptions) -> None:
    """Execute each run that has not ended and that no other command works on. Returns when all have ended, or when they
    have taken `max_hours` and none is being executed."""
    while left := [run for run in runs if run.state == "unfinished"]:
        is_late = _is_late(runs)
        if not is_late and any(_claim_and_execute(run, runs, on_event, options) for run in left):
            continue
        if is_late and not any(run.is_claimed for run in left):
            return
        time.sleep(_LOOK_EVERY_S)


def _is_late(runs: Sequence[TrialRun]) -> bool:
    sweep = runs[0].validated.recipe.sweep
    max_hours = sweep.max_hours if sweep else None
    return max_hours is not None and sum(run.seconds() for run in runs) >= 3600 * max_hours


def _claim_and_execute(run: TrialRun, runs: Sequence[TrialRun], on_event: EventHandler, options: RunOptions) -> bool:
    """Execute a run and record the reason if it fails. False if another process works on it."""
    with run.claimed() as is_ours:
        if not is_ours:
            return False
        wait_for_workers(run.run, partial(_note, on_event))
        if is_running(run.run):  # elsewhere, as a job of SLURM whose command has ended
            return False
        if run.state != "unfinished":  # it ended meanwhile
            return True
        if run.find_trial() is None:
            propose(run, runs)
        about = {"name": run.name, "number": run.trial.number, "values": run.trial.values}
        on_event({"event": "trial", **about, "seed": run.seed_index + 1 if run.has_seeds else None})
        pruner = Pruner(run, runs)
        try:
            with run.attempt():
                run_recipe(run.compose(), pruner.watch(on_event), options, directory=run.run)
        except (DpoRecipeError, WorkerBug) as error:
            if isinstance(error, Interrupted) and pruner.reason is not None:
                run.prune(pruner.reason)
            elif isinstance(error, Interrupted) or _is_of_the_machine(error):
                raise
            else:
                run.fail(error)
        failure = run.failure() or {}
        value = run.value(sweep_metric(run.validated.recipe))
        on_event({"event": "trial_ended", **about, "state": run.state, "value": value, "text": failure.get("text")})
        return True


def _note(on_event: EventHandler, text: str) -> None:
    on_event({"event": "note", "text": text})


def _is_of_the_machine(error: DpoRecipeError | WorkerBug) -> bool:
    return isinstance(error, DpoRecipeError) and error.findings[0].code in _OF_THE_MACHINE
