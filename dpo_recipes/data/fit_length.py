"""Truncates pairs to the maximum length in training."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from dpo_recipes.data.lengths import count_runs
from dpo_recipes.data.report import SplitReport
from dpo_recipes.errors import DataError
from dpo_recipes.recipe.schema.data import Overlong


@dataclass(frozen=True)
class TokenizedPair:
    """Token ids of one preference: the model sees prompt + chosen and prompt + rejected."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    chosen_context: list[int] = field(default_factory=list)
    """Runs of `chosen_ids` that are context and not trained on, as a flat list of starts and ends."""
    rejected_context: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        """The tokens of the longer of the two sequences."""
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))

    @property
    def lengths(self) -> tuple[int, int, int]:
        """The tokens of prompt, chosen and rejected."""
        return len(self.prompt_ids), len(self.chosen_ids), len(self.rejected_ids)

    @property
    def num_context(self) -> int:
        """The number of tokens of both answers that are not trained on."""
        return count_runs(self.chosen_context) + count_runs(self.rejected_context)


def fit(
    pair: TokenizedPair,
    where: str,
    max_length: int,
    overlong: Overlong,
    report: SplitReport,
    *,
    keep_first: int | None = None,
) -> TokenizedPair | None:
    """The pair truncated to `max_length`, or None if it is dropped.

    A first token `keep_first`, the beginning-of-sequence token, is kept if the start of the prompt is truncated. Raises
    `DataError` D408 for a too long pair with `overlong: error`.
    """
    if not pair.prompt_ids or not pair.chosen_ids or not pair.rejected_ids:
        report.drop("empty_after_template", where)
        return None
    if pair.length <= max_length:
        return pair
    if overlong == "error":
        raise DataError.of(
            "D408",
            f"{where} has {pair.length} tokens, more than max_length {max_length}",
            why="`data.overlong` is `error`",
            fix="raise `data.max_length`, or choose `overlong: drop`",
        )
    excess = pair.length - max_length
    start = pair.prompt_ids[:1] if pair.prompt_ids[0] == keep_first else []
    if overlong == "truncate_prompt_start" and excess + len(start) < len(pair.prompt_ids):
        report.cut("prompt_start")
        return replace(pair, prompt_ids=[*start, *pair.prompt_ids[excess + len(start) :]])
    room = max_length - len(pair.prompt_ids)
    if overlong == "truncate_completion_end" and room > 0:
        report.cut("completion_end")
        contexts = (_first(runs, room) for runs in (pair.chosen_context, pair.rejected_context))
        return TokenizedPair(pair.prompt_ids, pair.chosen_ids[:room], pair.rejected_ids[:room], *contexts)
    report.drop("overlong", where)
    return None


def _first(runs: list[int], count: int) -> list[int]:
    """The parts of runs within the first `count` tokens."""
    kept = sum(start < count for start in runs[::2])
    return [min(place, count) for place in runs[: 2 * kept]]
