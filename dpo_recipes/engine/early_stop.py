"""Early stopping: decides from the evaluations so far whether training continues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dpo_recipes.guards.base import Row, number
from dpo_recipes.objectives.metric import Metric


@dataclass(frozen=True)
class EarlyStop:
    """The settings of `training.early_stopping`.

    The answer is a function of the rows alone, so a resumed run ends at the same step as an uninterrupted one.
    """

    metric: Metric
    patience: int
    min_delta: float

    def reason(self, evaluations: Sequence[Row]) -> str | None:
        """Why training ends after the last of these rows, or None if it continues. The base, at step 0, does not count:
        by some metrics it can only tie with itself."""
        key, step = f"eval_{self.metric.key}", 0
        best: float | None = None
        num_worse = 0
        for row in evaluations:
            value = number(row, key)
            if row["step"] == 0:
                continue
            if self._improves(value, best):
                best, step, num_worse = value, row["step"], 0
            else:
                num_worse += 1
        if num_worse < self.patience:
            return None
        newest = evaluations[-1]
        count = "evaluation" if num_worse == 1 else f"{num_worse} evaluations"
        return (
            f"the held-out {self.metric.label.lower()} has not improved in the last {count}: it was "
            f"{self.metric.format(best)} at step {step} and is {self.metric.format(newest.get(key))} at step "
            f"{newest['step']} (`training.early_stopping`)"
        )

    def _improves(self, value: float | None, best: float | None) -> bool:
        if best is None:
            return self.metric.is_better(value, None)
        return self.metric.is_better(value, best + self.min_delta * (1 if self.metric.higher_is_better else -1))
