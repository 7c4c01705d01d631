"""A metric of an objective, as evaluation, progress line, report and model card show it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from dpo_recipes.formats import format_number, format_percent


@dataclass(frozen=True)
class Metric:
    """One metric of an objective, as evaluation, progress line, report and model card show it."""

    key: str
    """The name in metrics.jsonl; evaluations add the prefix `eval_` or `test_`."""
    label: str
    decimals: int = 3
    is_share: bool = False
    """Whether it is a share between 0 and 1, which is shown in percent."""
    is_signed: bool = False
    higher_is_better: bool | None = None
    """None for a metric without a direction, such as a log-probability."""
    is_shown_live: bool = False
    """Whether the progress line shows it. Reports also give it a chart and a place among the key numbers."""
    base_value: float | None = None
    """The value of the untouched base by definition, for example 0 for a margin over itself. None if it is measured."""
    is_tied_at_base: bool = False
    """Whether the base can only tie, because it is compared with itself, so that its value cannot be compared with
    that of a tuned model."""
    chance: float | None = None
    """The value that guessing gives: a chart marks it, and the verdict compares with it."""
    by_subset: bool = False
    """Whether evaluations also give the metric for each subset of the rows (`columns: {subset: ...}` of a source): a
    share of rows, with 0 or 1 for each of them."""
    short_label: str = ""
    """The name in the progress line. Empty: the label in lower case."""
    description: str = ""
    """What the value says, in sentences: the caption of its chart."""
    chart: str = ""
    """The title of a chart that several metrics share. Empty: a chart of its own if `is_shown_live` is set, or none."""

    @property
    def is_measured_at_base(self) -> bool:
        """Whether the value of the untouched base says something that can be compared with that of a tuned model."""
        return self.base_value is None and not self.is_tied_at_base

    @property
    def live_label(self) -> str:
        """The name in the progress line."""
        return self.short_label or self.label.lower()

    def format(self, value: Any) -> str:
        """A value as text, with this metric's decimals and sign or in percent; a dash for a missing value."""
        if self.is_share:
            return format_percent(value, self.decimals)
        return format_number(value, self.decimals, signed=self.is_signed)

    def is_better(self, value: float | None, than: float | None) -> bool:
        """Whether a value is better than another one. A missing or non-finite value is never better, and any other
        value is better than it. Only for a metric with a direction."""
        assert self.higher_is_better is not None, f"`{self.key}` has no direction"
        if value is None or not math.isfinite(value):
            return False
        if than is None or not math.isfinite(than):
            return True
        return value > than if self.higher_is_better else value < than


LOSS = Metric("loss", "Loss", higher_is_better=False, is_shown_live=True, description="Lower is better.")
"""The metric that every objective has."""
