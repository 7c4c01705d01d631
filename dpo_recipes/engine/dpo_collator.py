"""Makes the batches of TRL's DPOTrainer from tokenized rows, and masks tokens that are not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpo_recipes.data.tokenize import ANSWERS, CONTEXT, PROMPT
from dpo_recipes.engine.reference import REFERENCE


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
