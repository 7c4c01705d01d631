"""Compares the accuracies of the subsets of held-out rows, each with the interval that its number of rows allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dpo_recipes.evaluate.metrics import Values
from dpo_recipes.formats import NO_VALUE, finite, format_count, format_percent
from dpo_recipes.objectives.base import Objective
from dpo_recipes.objectives.metric import Metric
from dpo_recipes.run_result import RunResult
from dpo_recipes.significance import accuracy_interval

_SPLITS = {"eval": "held-out", "test": "test"}


@dataclass(frozen=True)
class SubsetRow:
    """The accuracy of one subset, as text."""

    name: str
    num_rows: str
    base: str
    """A dash if the base was not measured or can only tie."""
    tuned: str
    interval: str
    """The 95% Wilson interval of the tuned model's accuracy."""


@dataclass(frozen=True)
class SubsetTable:
    """The accuracies of all subsets of one split."""

    title: str
    rows: list[SubsetRow]

    @property
    def has_base(self) -> bool:
        """Whether any subset has an accuracy of the base."""
        return any(row.base != NO_VALUE for row in self.rows)


def compare_subsets(
    metric: Metric, split: str, num_rows: Mapping[str, int], tuned: Values, base: Values
) -> list[SubsetRow]:
    """The subsets of a split in the order of `num_rows`, which gives the measured rows of each.

    `tuned` and `base` have the values as `eval_<metric>/<subset>` or `test_<metric>/<subset>`. A subset without a value
    of the tuned model is left out.
    """
    rows = []
    for name, count in num_rows.items():
        key = f"{split}_{metric.key}/{name}"
        value = finite(tuned.get(key))
        if value is None or not count:
            continue
        low, high = (format_percent(bound, metric.decimals) for bound in accuracy_interval(value, count))
        of_base = NO_VALUE if metric.is_tied_at_base else metric.format(base.get(key))
        rows.append(SubsetRow(name, format_count(count), of_base, metric.format(value), f"{low} to {high}"))
    return rows


def list_subset_tables(result: RunResult, objective: Objective) -> list[SubsetTable]:
    """A table for each split whose rows have subsets."""
    metric = objective.subset_metric
    if metric is None:
        return []
    tables = []
    for split, num_rows in result.subsets.items():
        rows = compare_subsets(metric, split, num_rows, dict(result.metrics), dict(result.base_metrics))
        if rows:
            title = f"{metric.label} on the {_SPLITS[split]} {objective.row_noun}s of each subset"
            tables.append(SubsetTable(title, rows))
    return tables
