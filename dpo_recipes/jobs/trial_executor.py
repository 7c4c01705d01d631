"""How the runs of a sweep are executed: values are chosen when a run starts, and it is ended if others are better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dpo_recipes.errors import Interrupted
from dpo_recipes.jobs.keep import remove_losers
from dpo_recipes.jobs.outcome import sweep_metric
from dpo_recipes.jobs.pruning import Pruner
from dpo_recipes.jobs.tpe import propose
from dpo_recipes.jobs.trial_run import TrialRun
from dpo_recipes.jobs.work import record_failure
from dpo_recipes.supervise import EventHandler
from dpo_recipes.workflow import RunOptions, run_recipe


class TrialExecutor:
    """Executes runs of trials."""

    def is_late(self, runs: Sequence[TrialRun]) -> bool:
        """Whether all runs together have taken `max_hours`."""
        sweep = runs[0].validated.recipe.sweep
        max_hours = sweep.max_hours if sweep else None
        return max_hours is not None and sum(run.seconds() for run in runs) >= 3600 * max_hours

    def execute(self, run: TrialRun, runs: Sequence[TrialRun], on_event: EventHandler, options: RunOptions) -> None:
        """Execute a run, with an event before and after it."""
        if run.find_trial() is None:
            propose(run, runs)
        on_event(begin_event(run))
        pruner = Pruner(run, runs)
        watched = pruner.watch(on_event)
        try:
            record_failure(run, lambda: run_recipe(run.compose(), watched, options, directory=run.run))
        except Interrupted:
            if pruner.reason is None:
                raise
            run.prune(pruner.reason)
        remove_losers(runs, sweep_metric(run.validated.recipe), run)
        on_event(end_event(run))


def begin_event(run: TrialRun) -> dict[str, Any]:
    """The event before a run whose trial has its values."""
    return {"event": "trial", **_about(run), "seed": run.seed_index + 1 if run.has_seeds else None}


def end_event(run: TrialRun) -> dict[str, Any]:
    """The event after a run."""
    value, text = run.value(sweep_metric(run.validated.recipe)), (run.failure() or {}).get("text")
    return {"event": "trial_ended", **_about(run), "state": run.state, "value": value, "text": text}


def _about(run: TrialRun) -> dict[str, Any]:
    return {"name": run.name, "number": run.number, "values": run.trial.values}
