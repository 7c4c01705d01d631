"""Batches of tokenized rows with any number of answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

ROW_COLUMNS = {"label": torch.bool, "weight": torch.float32, "margin": torch.float32, "reference_logps": torch.float32}
"""Columns with a value for each row, and the types of their tensors. `reference_logps` has one for each answer."""
SEQUENCE_COLUMNS = ("prompt_ids", "answer_ids", "answer_context")


@dataclass(frozen=True)
class AnswerCollator:
    """Collates B rows of K answers to K·B sequences, padded on the right: the first answers of all rows, then the
    second ones, and so on.

    `completion_mask` is 1 for tokens of an answer that are trained on: not for the prompt, padding, and turns of the
    user or a tool within an answer.
    """

    pad_token_id: int

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """The tensors of some rows: `input_ids`, `attention_mask` and `completion_mask` are [K·B, L]."""
        ids: list[torch.Tensor] = []
        masks: list[torch.Tensor] = []
        for place in range(len(rows[0]["answer_ids"])):
            for row in rows:
                ids.append(torch.tensor([*row["prompt_ids"], *row["answer_ids"][place]]))
                masks.append(_completion_mask(row, place))
        batch = {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(sequence) for sequence in ids], batch_first=True),
            "completion_mask": pad_sequence(masks, batch_first=True),
        }
        of_rows = {name: dtype for name, dtype in ROW_COLUMNS.items() if name in rows[0]}
        return batch | {name: torch.tensor([row[name] for row in rows], dtype=of_rows[name]) for name in of_rows}


def _completion_mask(row: dict[str, Any], place: int) -> torch.Tensor:
    """[tokens of prompt and answer]: 1 for each trained token."""
    num_prompt, num_answer = len(row["prompt_ids"]), len(row["answer_ids"][place])
    mask = torch.zeros(num_prompt + num_answer, dtype=torch.long)
    mask[num_prompt:] = 1
    runs = row["answer_context"][place] if "answer_context" in row else []
    for start, stop in zip(runs[::2], runs[1::2], strict=True):
        mask[num_prompt + start : num_prompt + stop] = 0
    return mask
