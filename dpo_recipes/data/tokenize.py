"""Preference rows to token ids, through the chat template.

The prompt's ids are the part that the rendered prompt and both rendered conversations share, as in TRL 1.16's
`DPOTrainer._prepare_dataset`, so ids are equal to TRL's; rendering and encoding run in batches.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dpo_recipes.data.prepare import PreferenceSplits
from dpo_recipes.data.rows import Message, PreferenceRow, SplitReport
from dpo_recipes.errors import DataError, DpoRecipeError
from dpo_recipes.recipe.schema.data import Data, Overlong

_BATCH = 256


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


def tokenize_splits(
    splits: PreferenceSplits, tokenizer: Any, data: Data
) -> tuple[dict[str, list[TokenizedPair]], PreferenceSplits]:
    """Tokenized pairs of `train` and, where something is held out, `eval`; and the rows that they came from."""
    rows = {"train": splits.train, "eval": splits.held_out}
    pairs: dict[str, list[TokenizedPair]] = {}
    kept: dict[str, list[PreferenceRow]] = {"train": [], "eval": []}
    for name in ("train", "eval"):
        if rows[name]:
            pairs[name], kept[name] = tokenize_rows(
                rows[name], tokenizer, max_length=data.max_length, overlong=data.overlong, report=splits.reports[name]
            )
    return pairs, replace(splits, train=kept["train"], held_out=kept["eval"])


def to_dataset(pairs: Sequence[TokenizedPair]) -> Any:
    """A `datasets.Dataset` with the columns TRL's collator reads: prompt_ids, chosen_ids, rejected_ids."""
    from datasets import Dataset

    return Dataset.from_dict(
        {name: [getattr(pair, name) for pair in pairs] for name in ("prompt_ids", "chosen_ids", "rejected_ids")}
    )


def tokenize_rows(
    rows: Sequence[PreferenceRow], tokenizer: Any, *, max_length: int, overlong: Overlong, report: SplitReport
) -> tuple[list[TokenizedPair], list[PreferenceRow]]:
    """Pairs no longer than `max_length` tokens, and the rows they came from. Fills `report`.

    Raises `DataError` D408 (over-long pair with `overlong: error`), D409 (none left) and D420 (template fails).
    """
    pairs: list[TokenizedPair] = []
    kept: list[PreferenceRow] = []
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        for row, pair in zip(batch, _tokenize_batch(batch, tokenizer), strict=True):
            fitted = _fit(pair, row, max_length, overlong, report)
            if fitted is not None:
                pairs.append(fitted)
                kept.append(row)
    report.rows_kept = len(pairs)
    if rows and not pairs:
        raise DataError.of(
            "D409",
            "every row was dropped",
            why=f"{report.dropped}",
            fix="raise `data.max_length`, or choose another `data.overlong`",
        )
    report.tokens = sum(2 * len(p.prompt_ids) + len(p.chosen_ids) + len(p.rejected_ids) for p in pairs)
    report.lengths = (
        {
            name: _distribution([len(getattr(pair, f"{name}_ids")) for pair in pairs])
            for name in ("prompt", "chosen", "rejected")
        }
        if pairs
        else {}
    )
    return pairs, kept


def render(messages: Sequence[Message], tokenizer: Any, *, add_generation_prompt: bool = False) -> str:
    """Messages as the model reads them. Raises `DataError` D420 when the template refuses them."""
    try:
        return tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except DpoRecipeError:  # a requested stop that came in the middle
        raise
    except Exception as error:  # a template is somebody's code in a sandbox: it may raise anything
        raise DataError.of(
            "D420",
            "the chat template cannot render a conversation",
            why=f"{type(error).__name__}: {error}",
            fix="choose another `chat_template`, or correct the messages it refuses",
        ) from error


def _tokenize_batch(rows: Sequence[PreferenceRow], tokenizer: Any) -> list[TokenizedPair]:
    texts = [render(row.prompt, tokenizer, add_generation_prompt=True) for row in rows]
    texts += [render([*row.prompt, *row.chosen], tokenizer) for row in rows]
    texts += [render([*row.prompt, *row.rejected], tokenizer) for row in rows]
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    count = len(rows)
    pairs = []
    for prompt, chosen, rejected in zip(ids[:count], ids[count : 2 * count], ids[2 * count :], strict=True):
        shared = min(_common_prefix(prompt, chosen), _common_prefix(prompt, rejected))
        pairs.append(TokenizedPair(prompt[:shared], chosen[shared:], rejected[shared:]))
    return pairs


def _fit(
    pair: TokenizedPair, row: PreferenceRow, max_length: int, overlong: Overlong, report: SplitReport
) -> TokenizedPair | None:
    if not pair.prompt_ids or not pair.chosen_ids or not pair.rejected_ids:
        report.drop("empty_after_template", row.where)
        return None
    if pair.length <= max_length:
        return pair
    if overlong == "error":
        raise DataError.of(
            "D408",
            f"{row.where} has {pair.length} tokens, more than max_length {max_length}",
            why="`data.overlong` is `error`",
            fix="raise `data.max_length`, or choose `overlong: drop`",
        )
    excess = pair.length - max_length
    if overlong == "truncate_prompt_start" and excess < len(pair.prompt_ids):
        report.truncated += 1
        return TokenizedPair(pair.prompt_ids[excess:], pair.chosen_ids, pair.rejected_ids)
    room = max_length - len(pair.prompt_ids)
    if overlong == "truncate_completion_end" and room > 0:
        report.truncated += 1
        return TokenizedPair(pair.prompt_ids, pair.chosen_ids[:room], pair.rejected_ids[:room])
    report.drop("overlong", row.where)
    return None


def _common_prefix(first: list[int], second: list[int]) -> int:
    length = min(len(first), len(second))
    if first[:length] == second[:length]:
        return length
    return next(i for i in range(length) if first[i] != second[i])


def _distribution(lengths: list[int]) -> dict[str, float]:
    ordered = sorted(lengths)
    return {
        "mean": round(statistics.fmean(ordered), 1),
        "median": ordered[len(ordered) // 2],
        "p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        "max": ordered[-1],
    }
