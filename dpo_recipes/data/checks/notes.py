"""Counts the rows of a split with each kind of fault and turns each kind into one finding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from dpo_recipes.errors import Finding


@dataclass
class FaultCount:
    """The number of rows with a fault, and the location and a detail of the first."""

    count: int = 0
    where: str = ""
    detail: str = ""


class Notes:
    """Counts faults by code. A row counts once for each code, even if it has that fault several times."""

    def __init__(self, split: str, locate: Callable[[int], str]) -> None:
        """`locate` returns the location in its source of the row at an index of the split."""
        self.split = split
        self.locate = locate
        self.num_rows = 0
        self.place = 0
        self.seen: dict[str, FaultCount] = {}
        self._where = ""
        self._of_row: set[str] = set()

    def next_row(self, place: int, where: str) -> None:
        """Start with the next row."""
        self.num_rows += 1
        self.place = place
        self._where = where
        self._of_row.clear()

    def add(self, code: str, detail: str = "") -> None:
        """Count the current row under a code; the `detail` of the first row is kept for the text of the finding."""
        if code not in self._of_row:
            self._of_row.add(code)
            self.seen.setdefault(code, FaultCount(where=self._where, detail=detail)).count += 1

    def has(self, code: str) -> bool:
        """Whether the current row is counted under a code."""
        return code in self._of_row

    def finding(
        self, code: str, what: str, *, why: str, fix: str, error: Literal["always", "everywhere", "never"]
    ) -> Finding:
        """The finding of a code that was seen, with `what` and the number of rows.

        `error` decides the severity: with `everywhere`, the finding is an error if every row has the fault.
        """
        seen = self.seen[code]
        is_error = error == "always" or (error == "everywhere" and seen.count == self.num_rows)
        return Finding(
            code,
            f"{what}: {seen.count:,} of {self.num_rows:,} rows ({self.split}), the first is {seen.where}",
            why=why,
            fix=fix,
            severity="error" if is_error else "warning",
        )
