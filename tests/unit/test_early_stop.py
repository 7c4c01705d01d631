"""When evaluations count as an improvement, and when their absence ends training."""

from __future__ import annotations

import pytest

from dpo_recipes.engine.early_stop import EarlyStop
from dpo_recipes.objectives.metric import LOSS
from dpo_recipes.objectives.pair_metrics import MARGIN


def ends_at(early_stop: EarlyStop, *values: float | None) -> int | None:
    """The number of the evaluation, counted from 1, after which training ends."""
    rows = [{"step": 0, "eval_loss": 0.0, "eval_rewards/margins": 99.0}]  # the base, which does not count
    for step, value in enumerate(values, 1):
        rows.append({"step": step, f"eval_{early_stop.metric.key}": value})
        if early_stop.reason(rows) is not None:
            return step
    return None


@pytest.mark.parametrize(
    ("patience", "min_delta", "values", "end"),
    [
        (1, 0.0, (0.6, 0.5, 0.4), None),
        (1, 0.0, (0.6, 0.5, 0.5), 3),  # no change is no improvement
        (2, 0.0, (0.6, 0.7, 0.5, 0.6, 0.55), 5),  # only evaluations in sequence count
        (2, 0.1, (0.6, 0.55, 0.45), None),  # 0.45 is better than the best, 0.6, by more than 0.1
        (2, 0.1, (0.6, 0.55, 0.51), 3),
        (1, 0.0, (None, 0.5), 1),
        (2, 0.0, (0.6, None, 0.5), None),
        (3, 0.0, (0.6, 0.7), None),
    ],
)
def test_patience_and_min_delta(
    patience: int, min_delta: float, values: tuple[float | None, ...], end: int | None
) -> None:
    assert ends_at(EarlyStop(LOSS, patience, min_delta), *values) == end


def test_a_metric_may_be_better_when_it_is_higher() -> None:
    assert ends_at(EarlyStop(MARGIN, 1, 0.1), 0.2, 0.4, 0.45) == 3
    assert ends_at(EarlyStop(MARGIN, 1, 0.0), 0.2, 0.4, 0.45) is None


def test_the_reason_has_the_numbers() -> None:
    rows = [{"step": step, "eval_loss": loss} for step, loss in ((0, 0.693), (4, 0.5), (8, 0.6), (12, 0.55))]
    assert EarlyStop(LOSS, 2, 0.0).reason(rows) == (
        "the held-out loss has not improved in the last 2 evaluations: it was 0.500 at step 4 and is 0.550 at step 12 "
        "(`training.early_stopping`)"
    )
