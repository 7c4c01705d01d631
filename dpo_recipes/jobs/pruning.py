"""Ends a run of a sweep that is worse than others were at the same evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dpo_recipes.jobs.outcome import sweep_metric
from dpo_recipes.jobs.study import is_worse_than_others
from dpo_recipes.jobs.trial_run import TrialRun
from dpo_recipes.supervise import EventHandler


class Pruner:
    """Looks at each evaluation of a run. It compares the run with those of the other trials that have the same seed."""

    def __init__(self, run: TrialRun, runs: Sequence[TrialRun]) -> None:
        sweep = run.validated.recipe.sweep
        self._pruning = sweep.pruning if sweep else None
        self._run = run
        self._others = [other for other in runs if other.seed_index == run.seed_index and other.number != run.number]
        self.reason: str | None = None
        """Why the run is to be ended; None while it is not."""

    def watch(self, on_event: EventHandler) -> EventHandler:
        """A handler that passes events on, and asks the run to stop if it is to be ended."""

        def handle(event: dict[str, Any]) -> bool | None:
            return on_event(event) or self._should_stop(event)

        return handle

    def _should_stop(self, event: dict[str, Any]) -> bool:
        """Whether the run is to be ended after this event. It is asked to stop only once, because a second time would
        end it at once."""
        if self._pruning is None or self.reason is not None or event["event"] != "evaluated":
            return False
        metric = sweep_metric(self._run.validated.recipe)
        mine = self._run.evaluations(metric)
        finished = [other.evaluations(metric) for other in self._others if other.state == "finished"]
        if is_worse_than_others(mine, finished, metric, self._pruning):
            what = f"{metric.label.lower()} {metric.format(mine[-1])} at evaluation {len(mine)} (step {event['step']})"
            self.reason = f"it was worse than others: {what}"
        return self.reason is not None
