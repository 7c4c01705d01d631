"""Makes the batches of trainers from tokenized rows, and masks tokens that are not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from dpo_recipes.data.tokenize import ANSWERS, CONTEXT, LABEL, MARGIN, PROMPT, ROW, SUBSET_NUMBER, WEIGHT
from dpo_recipes.engine.reference import REFERENCE
from dpo_recipes.model.sequences import pad_left

PROMPT_MASK = "prompt_mask"
"""The key of the mask of a batch of prompts: 1 for a token, 0 for padding."""
ROW_COLUMNS = {
    LABEL: torch.bool,
    WEIGHT: torch.float32,
    MARGIN: torch.float32,
    SUBSET_NUMBER: torch.int64,
    REFERENCE: torch.float32,
}
"""Columns with a value for each row, and the types of their tensors. REFERENCE has a value for each answer."""

ADVANTAGES, OLD_LOGPS, OLD_TOKEN_LOGPS, REFERENCE_TOKEN_LOGPS, SAMPLING_WEIGHTS = OF_ROLLOUT = (
    "advantages",
    "old_logps",
    "old_token_logps",
    "reference_token_logps",
    "sampling_weights",
)
"""The tensors of a batch of answers that the policy has written: [B, K], and those of tokens [B, K, T]."""


@dataclass(frozen=True)
class PromptCollator:
    """Collates B prompts, which are to be answered, to tensors padded on the left."""

    pad_token_id: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """`prompt_ids` and `prompt_mask` are [B, P], `row` is [B]."""
        ids, mask = pad_left([row[PROMPT] for row in rows], self.pad_token_id)
        return {PROMPT: ids, PROMPT_MASK: mask, ROW: torch.tensor([row[ROW] for row in rows])}


@dataclass(frozen=True)
class AnswerCollator:
    """Collates B rows of K answers to K·B sequences, padded on the right: the first answers of all rows, then the
    second ones, and so on.

    `completion_mask` is 1 for tokens of an answer that are trained on: not for the prompt, padding, and turns of the
    user or a tool within an answer. With `has_token_types`, `token_type_ids` is 1 for all tokens of an answer.
    """

    pad_token_id: int
    has_token_types: bool = False

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """The tensors of some rows: `input_ids`, `attention_mask` and `completion_mask` are [K·B, L], each of
        ROW_COLUMNS is [B] or [B, K]."""
        sequences = [(row[PROMPT], ids) for answers in zip(*(row[ANSWERS] for row in rows), strict=True)
                     for row, ids in zip(rows, answers, strict=True)]  # fmt: skip
        ids = [torch.tensor([*prompt, *answer]) for prompt, answer in sequences]
        batch = {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(sequence) for sequence in ids], batch_first=True),
            "completion_mask": pad_sequence(
                [torch.tensor([0] * len(prompt) + [1] * len(answer)) for prompt, answer in sequences], batch_first=True
            ),
        }
        if self.has_token_types:
            batch["token_type_ids"] = batch["completion_mask"].clone()
        mask_context(batch["completion_mask"], rows)
        of_rows = {name: dtype for name, dtype in ROW_COLUMNS.items() if name in rows[0]}
        return batch | {name: torch.tensor([row[name] for row in rows], dtype=dtype) for name, dtype in of_rows.items()}


@dataclass(frozen=True)
class DpoCollator:
    """A collator of pairs.

    `collate` is TRL 1.16's DataCollatorForPreference, which returns the chosen rows before the rejected rows and pads
    on the right.
    """

    collate: Any

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the batch of some pairs."""
        batch = self.collate(list(map(trl_columns, rows)))
        mask_context(batch["completion_mask"], rows)
        for name in (WEIGHT, SUBSET_NUMBER):
            if name in rows[0]:
                batch[name] = torch.tensor([row[name] for row in rows], dtype=ROW_COLUMNS[name])
        return batch


def trl_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """A pair with the columns that DataCollatorForPreference reads."""
    chosen, rejected = row[ANSWERS]
    columns = {"prompt_ids": row[PROMPT], "chosen_ids": chosen, "rejected_ids": rejected}
    if REFERENCE in row:
        columns["ref_chosen_logps"], columns["ref_rejected_logps"] = row[REFERENCE]
    return columns


def mask_context(completion_mask: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Set the mask of context to 0, like that of the prompt: of the turns of others than the assistant.

    The loss, the metrics and the reference read this mask, [K * rows, tokens], with the first answers of all rows
    before the second ones, padded on the right. Rows without the column of contexts are unchanged.
    """
    if CONTEXT not in rows[0]:
        return
    masks = iter(completion_mask)
    for runs_of_rows in zip(*(row[CONTEXT] for row in rows), strict=True):
        for row, runs in zip(rows, runs_of_rows, strict=True):
            mask, first = next(masks), len(row[PROMPT])
            for start, stop in zip(runs[::2], runs[1::2], strict=True):
                mask[first + start : first + stop] = 0
