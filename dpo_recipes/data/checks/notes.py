"""Counting the rows of a split that have some fault, and making one finding of each kind of fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from dpo_recipes.errors import Finding


@dataclass
class Seen:
    """How many rows have a fault, and what the first of them looks like."""

    count: int = 0
    where: str = ""
    detail: str = ""


class Notes:
    """Faults by their code. A row counts once for each code, however often it has that fault."""

    def __init__(self, split: str, locate: Callable[[int], str]) -> None:
        """`locate` gives where the row at a place of the split stands in its source."""
        self.split = split
        self.locate = locate
        self.num_rows = 0
        self.place = 0
        self.seen: dict[str, Seen] = {}
        self._where = ""
        self._of_row: set[str] = set()

    def next_row(self, place: int, where: str) -> None:
        """Begin with another row."""
        self.num_rows += 1
        self.place = place
        self._where = where
        self._of_row.clear()

    def add(self, code: str, detail: str = "") -> None:
        """Count the present row under a code; `detail` of the first row is kept for the finding's text."""
        if code not in self._of_row:
            self._of_row.add(code)
            self.seen.setdefault(code, Seen(where=self._where, detail=detail)).count += 1

    def has(self, code: str) -> bool:
        """Whether the present row is counted under a code."""
        return code in self._of_row

    def finding(
        self, code: str, what: str, *, why: str, fix: str, error: Literal["always", "everywhere", "never"]
    ) -> Finding:
        """The finding of a code that was seen: `what`, and how many rows are so. `error` says when it is an error:
        `everywhere` means where every row is so."""
        seen = self.seen[code]
        is_error = error == "always" or (error == "everywhere" and seen.count == self.num_rows)
        return Finding(
            code,
            f"{what}: {seen.count:,} of {self.num_rows:,} rows ({self.split}), the first is {seen.where}",
            why=why,
            fix=fix,
            severity="error" if is_error else "warning",
        )
