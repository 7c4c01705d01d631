"""Pairs cut to the longest length that a model is trained on."""

from __future__ import annotations

from dataclasses import dataclass

from dpo_recipes.data.report import SplitReport
from dpo_recipes.errors import DataError
from dpo_recipes.recipe.schema.data import Overlong


@dataclass(frozen=True)
class TokenizedPair:
    """Token ids of one preference: the model sees prompt + chosen and prompt + rejected."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]

    @property
    def length(self) -> int:
        """Tokens of the longer of the two sequences."""
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))

    @property
    def lengths(self) -> tuple[int, int, int]:
        """Tokens of prompt, chosen and rejected."""
        return len(self.prompt_ids), len(self.chosen_ids), len(self.rejected_ids)


def fit(
    pair: TokenizedPair,
    where: str,
    max_length: int,
    overlong: Overlong,
    report: SplitReport,
    *,
    keep_first: int | None = None,
) -> TokenizedPair | None:
    """The pair cut to `max_length`, or none when it is dropped. A prompt that begins with `keep_first`, the token for
    the beginning of a text, still does when its start is cut. Raises `DataError` D408."""
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
        return TokenizedPair([*start, *pair.prompt_ids[excess + len(start) :]], pair.chosen_ids, pair.rejected_ids)
    room = max_length - len(pair.prompt_ids)
    if overlong == "truncate_completion_end" and room > 0:
        report.cut("completion_end")
        return TokenizedPair(pair.prompt_ids, pair.chosen_ids[:room], pair.rejected_ids[:room])
    report.drop("overlong", where)
    return None
