"""An objective's metrics on the rows that are held out, under the names that its trainer logs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dpo_recipes.objectives.metric import Metric

Values = dict[str, float | None]
"""The values of metrics by `eval_<key>` or `test_<key>`. None if a split has no row with a value, such as a margin of
labelled answers without both classes."""


def name_as_test(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics of an evaluation on the test rows, all renamed to `test_...`: TRL 1.16 always prefixes its own metrics
    with `eval_`."""
    return {f"test_{name.removeprefix('test_').removeprefix('eval_')}": value for name, value in logs.items()}


def evaluate_splits(trainer: Any, metrics: Iterable[Metric]) -> Values:
    """The metrics of the model as it is now, on the held-out rows (`eval_...`) and on the test rows (`test_...`)."""
    metrics, values = tuple(metrics), Values()
    if trainer.eval_dataset is not None:
        state = trainer.state
        of_this_step = (
            row for row in reversed(state.log_history) if "eval_loss" in row and row["step"] == state.global_step
        )
        # With `eval_steps`, the trainer has just evaluated its last step, and the weights have not changed since.
        values |= _select("eval", next(of_this_step, None) or trainer.evaluate(), metrics)
    if trainer.test_dataset is not None:
        values |= _select("test", trainer.evaluate_test(), metrics)
    return values


def evaluate_base(trainer: Any, metrics: Iterable[Metric]) -> Values:
    """The metrics of the untouched base. A value that the base has by definition replaces the measured one, which may
    differ from it by rounding."""
    metrics = tuple(metrics)
    values = evaluate_splits(trainer, metrics)
    for metric in metrics:
        for name in (*_names(metric, "eval", values), *_names(metric, "test", values)):
            if metric.base_value is not None and values.get(name) is not None:
                values[name] = metric.base_value
    return values


def _select(split: str, measured: Mapping[str, float], metrics: Iterable[Metric]) -> Values:
    return {name: measured.get(name) for metric in metrics for name in _names(metric, split, measured)}


def _names(metric: Metric, split: str, measured: Iterable[str]) -> list[str]:
    """The name of a metric in a split, and those of its values for each subset."""
    whole = f"{split}_{metric.key}"
    return [whole, *(name for name in measured if metric.by_subset and name.startswith(f"{whole}/"))]
