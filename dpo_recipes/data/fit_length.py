"""Truncates tokenized rows to the maximum length in training."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dpo_recipes.data.lengths import count_runs
from dpo_recipes.data.report import SplitReport
from dpo_recipes.errors import DataError
from dpo_recipes.recipe.schema.data import Overlong


@dataclass(frozen=True)
class TokenizedRow:
    """Token ids of one row: the model sees the prompt with each of the answers."""

    prompt_ids: list[int]
    answer_ids: tuple[list[int], ...]
    answer_context: tuple[list[int], ...]
    """For each answer, the runs of its tokens that are context and not trained on, as a flat list of starts and
    ends."""
    label: bool | None = None
    """Whether the one answer of a labelled row is good."""
    weight: float | None = None
    """The factor of the row's loss."""
    margin: float | None = None
    """How much better the chosen answer of a pair is."""
    subset: str | None = None
    """The subset that the row belongs to."""

    @property
    def length(self) -> int:
        """The tokens of the longest sequence."""
        return len(self.prompt_ids) + max(map(len, self.answer_ids), default=0)

    @property
    def lengths(self) -> tuple[int, ...]:
        """The tokens of the prompt and of each answer."""
        return len(self.prompt_ids), *map(len, self.answer_ids)

    @property
    def num_context(self) -> int:
        """The number of tokens of all answers that are not trained on."""
        return sum(map(count_runs, self.answer_context))


def fit(
    row: TokenizedRow,
    where: str,
    max_length: int,
    overlong: Overlong,
    report: SplitReport,
    *,
    keep: tuple[int | None, int | None] = (None, None),
) -> TokenizedRow | None:
    """The row truncated to `max_length`, or None if it is dropped.

    Two tokens are kept if the row has them: `keep[0]`, the beginning-of-sequence token, at the start of a truncated
    prompt, and `keep[1]`, with which the input of an encoder ends, at the end of a truncated answer. Raises `DataError`
    D408 for a too long row with `overlong: error`.
    """
    if not all(row.lengths):
        report.drop("empty_after_template", where)
        return None
    if row.length <= max_length:
        return row
    if overlong == "error":
        raise DataError.of(
            "D408",
            f"{where} has {row.length} tokens, more than max_length {max_length}",
            why="`data.overlong` is `error`",
            fix="raise `data.max_length`, or choose `overlong: drop`",
        )
    excess = row.length - max_length
    start = row.prompt_ids[:1] if row.prompt_ids[0] == keep[0] else []
    if overlong == "truncate_prompt_start" and excess + len(start) < len(row.prompt_ids):
        report.cut("prompt_start")
        return replace(row, prompt_ids=[*start, *row.prompt_ids[excess + len(start) :]])
    room = max_length - len(row.prompt_ids)
    if overlong == "truncate_completion_end" and room > 0:
        report.cut("completion_end")
        answers = tuple(first_ids(ids, room, keep[1]) for ids in row.answer_ids)
        return replace(
            row, answer_ids=answers, answer_context=tuple(first_runs(runs, room) for runs in row.answer_context)
        )
    report.drop("overlong", where)
    return None


def first_ids(ids: list[int], count: int, last: int | None) -> list[int]:
    """The first ids of a text. If it ends with `last`, the shorter text does, too."""
    if last is None or len(ids) <= count or ids[-1] != last:
        return ids[:count]
    return [*ids[: count - 1], last]


def first_runs(runs: list[int], count: int) -> list[int]:
    """The parts of runs within the first `count` tokens."""
    kept = sum(start < count for start in runs[::2])
    return [min(place, count) for place in runs[: 2 * kept]]
