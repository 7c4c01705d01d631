"""What happened to the rows of one split, as `data_report.json` keeps it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class SplitReport:
    """Counts of one split: `rows_in` = `rows_kept` + all of `dropped`.

    `tokens`, `truncated`, `lengths` and `findings` are filled in by tokenizing.
    """

    rows_in: int = 0
    rows_kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    """Up to three places for each reason, so that a person can look."""
    steps: list[dict[str, Any]] = field(default_factory=list)
    """Rows after each step, in order: `{"step": "filter", "rows": 1800}`."""
    tokens: int = 0
    """Tokens of prompt + chosen and prompt + rejected together, as the trainer sees them."""
    truncated: dict[str, int] = field(default_factory=dict)
    """Pairs that were cut to `max_length`, by where: `prompt_start` or `completion_end`."""
    masked_pairs: int = 0
    """Pairs in whose answers somebody else speaks as well, such as the user; `data.train_on_turns`."""
    masked_tokens: int = 0
    """Tokens of their answers that are not trained."""
    lengths: dict[str, dict[str, float]] = field(default_factory=dict)
    sources: list[dict[str, Any]] = field(default_factory=list)
    """Each source's path, format, rows, and `unread`: columns that were not read, with the rows that have something in
    them."""
    findings: list[dict[str, Any]] = field(default_factory=list)

    def drop(self, reason: str, where: str | None = None, count: int = 1) -> None:
        """Count rows as dropped."""
        if not count:
            return
        self.dropped[reason] = self.dropped.get(reason, 0) + count
        places = self.examples.setdefault(reason, []) if where else []
        if where and len(places) < 3:
            places.append(where)

    def cut(self, where: str) -> None:
        """Count one pair as cut."""
        self.truncated[where] = self.truncated.get(where, 0) + 1

    def mask(self, tokens: int) -> None:
        """Count the tokens of one pair's answers that are not trained."""
        self.masked_pairs += tokens > 0
        self.masked_tokens += tokens

    @property
    def has_losses(self) -> bool:
        """Whether `describe_losses` says more than a number of pairs."""
        return bool(self.dropped or self.truncated or self.masked_pairs)

    def step(self, name: str, rows: int) -> None:
        """Note how many rows there are after a step."""
        self.steps.append({"step": name, "rows": rows})

    def describe_losses(self) -> str:
        """How many pairs are left, and why the others are not or not whole, in one line."""
        dropped = [f"{count:,} dropped ({reason})" for reason, count in self.dropped.items()]
        cut = [f"{count:,} cut ({where.replace('_', ' ')})" for where, count in self.truncated.items()]
        masked = (
            f"answers of {self.masked_pairs:,} pairs hold turns that are not the assistant's, which are not trained on "
            f"({self.masked_tokens:,} tokens masked)"
        )
        masks = [masked] if self.masked_pairs else []
        return "; ".join([f"{self.rows_kept:,} of {self.rows_in:,} pairs kept", *dropped, *cut, *masks])
