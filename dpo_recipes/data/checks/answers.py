"""Checks answers for equal tokens, contradictions between rows, words for missing values, and repeated prompts."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from dpo_recipes.data.checks.notes import Notes
from dpo_recipes.data.encode import Encoded, Texts
from dpo_recipes.data.fit_length import TokenizedRow
from dpo_recipes.data.nulls import NULL_WORDS
from dpo_recipes.data.rows import Message, Row, answer_names
from dpo_recipes.errors import Finding

_NULL_WORDS = NULL_WORDS | {"na", "nil", "undefined", "[]", "{}", '""'}
"""Words that pandas, spreadsheets and programs write for a missing value; case is ignored."""
_LONGEST_NULL_WORD = max(map(len, _NULL_WORDS))
_MIN_REPEATED_CHARS = 8
_MIN_REPEATED_WORDS = 2
"""A prompt with fewer characters and words, such as `Hi`, may occur in an answer by chance."""


class AnswerChecks:
    """Checks for D430 (equal tokens), D431 (prompts in answers), D432 (contradictions) and D433 (missing values)."""

    def __init__(self, notes: Notes, template: str, max_length: int) -> None:
        self._notes = notes
        self._directions = _Directions()
        self._equal = _EqualAnswers(notes.split, template, max_length)

    def look(self, row: Row, texts: Texts, encoded: Encoded) -> None:
        """Record the faults of one row's texts."""
        for name, messages in zip(("prompt", *answer_names(len(row.answers))), (row.prompt, *row.answers), strict=True):
            if (word := _null_word(messages)) is not None:
                self._notes.add("D433", f"`{name}` is `{word}`")
        asked = row.prompt[-1]["content"].strip() if row.prompt[-1]["role"] == "user" else ""
        if not row.answers:
            return
        if _repeats(asked, [answer[0]["content"] for answer in row.answers]):
            self._notes.add("D431")
        self._directions.add(self._notes.place, texts, row.label)

    def is_equal(self, where: str, whole: TokenizedRow, fitted: TokenizedRow) -> bool:
        """Whether both answers of a pair have the same tokens after truncation to `max_length`; records such a pair."""
        if len(fitted.answer_ids) != 2:
            return False
        self._equal.num_pairs += 1
        chosen, rejected = fitted.answer_ids
        if chosen != rejected:
            return False
        self._equal.add(where, by_template=whole.answer_ids[0] == whole.answer_ids[1])
        return True

    def findings(self) -> Iterator[Finding]:
        """The findings for the rows so far."""
        notes = self._notes
        if self._equal.where:
            yield self._equal.finding()
        if "D431" in notes.seen:
            yield notes.finding(
                "D431",
                "answers repeat their prompt",
                why="the model would learn to repeat the question before it answers",
                fix="remove the prompt from the answers; if it belongs there, `accept_advice: [D431]`",
                error="everywhere",
            )
        if (finding := self._directions.finding(notes)) is not None:
            yield finding
        if "D433" in notes.seen:
            yield notes.finding(
                "D433",
                f"texts consist of a word for a missing value ({notes.seen['D433'].detail})",
                why="programs write such words for missing values; the model would learn them as text",
                fix="drop these rows, for example with `filter: lower(chosen) not in ['null', 'none', 'nan']`; "
                "if the words are intended, `accept_advice: [D433]`",
                error="everywhere",
            )


def _null_word(messages: Sequence[Message]) -> str | None:
    for message in messages:
        content = message["content"]
        if len(content) <= 2 * _LONGEST_NULL_WORD and content.strip().lower() in _NULL_WORDS:
            return content.strip()
    return None


def _repeats(asked: str, answers: Sequence[str]) -> bool:
    """Whether an answer starts with the question, or both answers of a pair contain it. If it is short, all answers
    must start with it."""
    begins = [answer.lstrip().startswith(asked) for answer in answers]
    if len(asked) < _MIN_REPEATED_CHARS:
        return all(begins) and len(asked.split()) >= _MIN_REPEATED_WORDS
    return any(begins) or (len(answers) > 1 and all(asked in answer for answer in answers))


@dataclass
class _EqualAnswers:
    """Counts pairs that were dropped because both answers have the same tokens."""

    split: str
    template: str
    max_length: int
    num_pairs: int = 0
    by_template: int = 0
    by_cut: int = 0
    where: str = ""

    def add(self, where: str, *, by_template: bool) -> None:
        self.where = self.where or where
        self.by_template += by_template
        self.by_cut += not by_template

    def finding(self) -> Finding:
        count = self.by_template + self.by_cut
        causes, ways_out = [], []
        if self.by_cut:
            causes.append(
                f"truncation to max_length {self.max_length} makes the answers of {self.by_cut:,} pairs equal"
            )
            ways_out.append("raise `data.max_length`, or set `data.overlong: truncate_prompt_start` or `drop`")
        if self.by_template:
            causes.append(
                f"in {self.by_template:,} pairs the answers differ only in content that the template "
                f"`{self.template}` drops, such as surrounding spaces or reasoning"
            )
            ways_out.append("choose a template that keeps the difference, or remove these rows")
        return Finding(
            "D430",
            f"both answers have the same tokens, so the pair teaches nothing: {count:,} of {self.num_pairs:,} pairs "
            f"({self.split}), the first is {self.where}",
            why="; ".join(causes) + "; such pairs are dropped",
            fix="; ".join(ways_out),
            severity="error" if count == self.num_pairs else "warning",
        )


@dataclass
class _Directions:
    """Records which answer each pair prefers, and the label of each labelled row, in 16 bytes a row."""

    keys: array = field(default_factory=lambda: array("Q"))
    """63 hash bits of the prompt and the answers, in any order, and one bit for which of them is chosen or whether the
    only one is good."""
    places: array = field(default_factory=lambda: array("Q"))
    are_labels: bool = False

    def add(self, place: int, texts: Texts, label: bool | None) -> None:
        first, *others = (hash(text) for text in texts.answers)
        second = others[0] if others else None
        self.are_labels = label is not None
        if first == second or (second is None and label is None):
            return
        low, high, direction = (first, first, label) if second is None else (*sorted((first, second)), first < second)
        answers = hash((hash(texts.prompt), low, high))
        self.keys.append(((answers << 1) | bool(direction)) & 0xFFFF_FFFF_FFFF_FFFF)
        self.places.append(place)

    def finding(self, notes: Notes) -> Finding | None:
        keys = np.frombuffer(self.keys, np.uint64) if self.keys else np.empty(0, np.uint64)
        distinct = np.unique(keys)
        pairs, directions = np.unique(distinct >> np.uint64(1), return_counts=True)
        contradicting = np.flatnonzero(np.isin(keys >> np.uint64(1), pairs[directions == 2]))
        if not len(contradicting):
            return None
        first = contradicting[0]
        other = next(at for at in contradicting if keys[at] == keys[first] ^ np.uint64(1))
        seen = f"the first are {notes.locate(self.places[first])} and {notes.locate(self.places[other])}"
        who, why = "pairs", "one row prefers the answer that another row rejects, with the same prompt and answers"
        if self.are_labels:
            who, why = "labels", "the same answer to the same prompt is good in one row and bad in another one"
        return Finding(
            "D432",
            f"{who} contradict each other: {len(contradicting):,} of {notes.num_rows:,} rows ({notes.split}), {seen}",
            why=why,
            fix="keep one of them, for example by score or by the number of votes, and remove the other; "
            "if both are intended, `accept_advice: [D432]`",
            severity="error" if len(contradicting) == notes.num_rows else "warning",
        )
