"""All checks of a split's rows, in the one pass that tokenizes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dpo_recipes.data.checks.answers import AnswerChecks
from dpo_recipes.data.checks.marks import MarkChecks
from dpo_recipes.data.checks.notes import Notes
from dpo_recipes.data.checks.reasoning import ReasoningChecks
from dpo_recipes.data.checks.template import TemplateChecks
from dpo_recipes.data.encode import Encoded, Texts
from dpo_recipes.data.fit_length import TokenizedPair
from dpo_recipes.data.rows import PreferenceRow
from dpo_recipes.data.template import Renderer
from dpo_recipes.errors import Finding

CODES_OF_CONTENT = ("D425", "D426", "D427", "D431", "D432", "D433")
"""What depends on each row's own content, and is an error only where all rows are so."""


class RowChecks:
    """Looks at each row of a split; `findings` says what was seen."""

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

    def look(self, place: int, row: PreferenceRow, texts: Texts, encoded: Encoded) -> None:
        """Note the faults of the row at a place of the split, before anything is cut."""
        self._notes.next_row(place, row.where)
        for part in self._parts:
            part.look(row, texts, encoded)

    def is_equal(self, where: str, pair: TokenizedPair, fitted: TokenizedPair) -> bool:
        """Whether both answers of a pair are the same tokens in what fits `max_length`; such a pair is noted."""
        return self._answers.is_equal(where, pair, fitted)

    def findings(self) -> list[Finding]:
        """What was seen, errors first."""
        found = [finding for part in self._parts for finding in part.findings()]
        return sorted(found, key=lambda finding: (finding.severity != "error", finding.code))
