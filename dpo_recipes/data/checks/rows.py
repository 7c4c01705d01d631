"""Runs all checks of a split's rows while they are tokenized."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dpo_recipes.data.checks.answers import AnswerChecks
from dpo_recipes.data.checks.marks import MarkChecks
from dpo_recipes.data.checks.notes import Notes
from dpo_recipes.data.checks.reasoning import ReasoningChecks
from dpo_recipes.data.checks.template import TemplateChecks
from dpo_recipes.data.encode import Encoded, Texts
from dpo_recipes.data.fit_length import TokenizedRow
from dpo_recipes.data.rows import Row
from dpo_recipes.data.template import Renderer
from dpo_recipes.errors import Finding

CODES_OF_CONTENT = ("D425", "D426", "D427", "D431", "D432", "D433")
"""Codes that depend on the content of each row, and are errors only if all rows have the fault."""


class RowChecks:
    """Checks each row of a split; `findings` returns the results."""

    def __init__(
        self, tokenizer: Any, renderer: Renderer, split: str, max_length: int, locate: Callable[[int], str]
    ) -> None:
        self._notes = Notes(split, locate)
        self._answers = AnswerChecks(self._notes, renderer.template.name, max_length)
        self._parts = (
            TemplateChecks(self._notes, tokenizer, renderer),
            MarkChecks(self._notes, tokenizer, renderer.template),
            ReasoningChecks(self._notes, renderer.template),
            self._answers,
        )

    def look(self, place: int, row: Row, texts: Texts, encoded: Encoded) -> None:
        """Record the faults of the row at an index of the split, before truncation."""
        self._notes.next_row(place, row.where)
        for part in self._parts:
            part.look(row, texts, encoded)

    def is_equal(self, where: str, whole: TokenizedRow, fitted: TokenizedRow) -> bool:
        """Whether both answers of a pair have the same tokens after truncation to `max_length`; records such a pair."""
        return self._answers.is_equal(where, whole, fitted)

    def findings(self) -> list[Finding]:
        """The findings for the rows so far, errors first."""
        found = [finding for part in self._parts for finding in part.findings()]
        return sorted(found, key=lambda finding: (finding.severity != "error", finding.code))
