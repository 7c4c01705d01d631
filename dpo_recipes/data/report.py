"""Counts the rows of one split, for `data_report.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dpo_recipes.objectives.base import RowShape


@dataclass
class SplitReport:
    """The counts of one split: `rows_in` = `rows_kept` + the sum of `dropped`.

    Tokenizing fills in `tokens`, `truncated`, `lengths` and `findings`.
    """

    shape: RowShape = "pair"
    rows_in: int = 0
    rows_kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    """The locations of up to three dropped rows for each reason."""
    steps: list[dict[str, Any]] = field(default_factory=list)
    """The number of rows after each step, in order: `{"step": "filter", "rows": 1800}`."""
    tokens: int = 0
    """The total tokens of the prompts with each of their answers, as the trainer sees them."""
    truncated: dict[str, int] = field(default_factory=dict)
    """The number of rows that were truncated to `max_length`, by part: `prompt_start` or `completion_end`."""
    masked_rows: int = 0
    """The number of rows whose answers contain turns of the user or a tool; see `data.train_on_turns`."""
    masked_tokens: int = 0
    """The number of tokens in answers that are not trained on."""
    lengths: dict[str, dict[str, float]] = field(default_factory=dict)
    sources: list[dict[str, Any]] = field(default_factory=list)
    """The path, format and rows of each source, and `unread`: its unread columns with the number of rows in which they
    are not empty."""
    conversions: list[dict[str, Any]] = field(default_factory=list)
    """Rows that became rows of another shape: `{"from": "pairs", "to": "labelled rows", "rows": 2, "made": 4}`."""
    findings: list[dict[str, Any]] = field(default_factory=list)
    desirable: int | None = None
    """The number of kept rows with a good answer; None without labels."""
    undesirable: int | None = None
    subsets: dict[str, int] = field(default_factory=dict)
    """The number of kept rows of each subset. Empty if no row names one."""

    @property
    def unit(self) -> str:
        """`pairs` or `rows`: what the split consists of."""
        return "pairs" if self.shape == "pair" else "rows"

    @property
    def tokens_per_row(self) -> float:
        """The mean number of tokens of a kept row, of which there must be one."""
        return self.tokens / self.rows_kept

    def convert(self, source: str, target: str, rows: int, made: int) -> None:
        """Count rows that became rows of another shape."""
        for known in self.conversions:
            if (known["from"], known["to"]) == (source, target):
                known["rows"] += rows
                known["made"] += made
                return
        self.conversions.append({"from": source, "to": target, "rows": rows, "made": made})

    def drop(self, reason: str, where: str | None = None, count: int = 1) -> None:
        """Count rows as dropped."""
        if not count:
            return
        self.dropped[reason] = self.dropped.get(reason, 0) + count
        places = self.examples.setdefault(reason, []) if where else []
        if where and len(places) < 3:
            places.append(where)

    def cut(self, where: str) -> None:
        """Count one row as truncated."""
        self.truncated[where] = self.truncated.get(where, 0) + 1

    def mask(self, tokens: int) -> None:
        """Count the tokens of one row's answers that are not trained on."""
        self.masked_rows += tokens > 0
        self.masked_tokens += tokens

    def count_label(self, label: bool | None) -> None:
        """Count the label of a kept row; rows without labels are not counted."""
        if label is not None:
            self.desirable = (self.desirable or 0) + label
            self.undesirable = (self.undesirable or 0) + (not label)

    def count_subset(self, subset: str | None) -> None:
        """Count the subset of a kept row."""
        if subset is not None:
            self.subsets[subset] = self.subsets.get(subset, 0) + 1

    @property
    def has_changes(self) -> bool:
        """Whether any rows were converted, dropped, truncated or masked."""
        return bool(self.conversions or self.dropped or self.truncated or self.masked_rows)

    def step(self, name: str, rows: int) -> None:
        """Record the number of rows after a step."""
        self.steps.append({"step": name, "rows": rows})

    def describe_changes(self) -> str:
        """One line with the number of kept rows, and of converted, dropped, truncated and masked ones by reason."""
        dropped = [f"{count:,} dropped ({reason})" for reason, count in self.dropped.items()]
        cut = [f"{count:,} truncated ({where.replace('_', ' ')})" for where, count in self.truncated.items()]
        masked = (
            f"answers of {self.masked_rows:,} {self.unit} contain turns of the user or a tool, which are not trained "
            f"on ({self.masked_tokens:,} tokens masked)"
        )
        masks = [masked] if self.masked_rows else []
        converted = list(map(describe_conversion, self.conversions))
        return "; ".join(
            [*converted, f"{self.rows_kept:,} of {self.rows_in:,} {self.unit} kept", *dropped, *cut, *masks]
        )


def describe_conversion(conversion: Mapping[str, Any]) -> str:
    """An entry of `SplitReport.conversions` in words."""
    return f"{conversion['rows']:,} {conversion['from']} became {conversion['made']:,} {conversion['to']}"
