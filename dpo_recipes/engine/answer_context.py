"""Masks tokens of an answer that are not trained: the turns of others than the assistant.

The loss, the metrics and the reference read a batch's `completion_mask`, in which these tokens are 0, like those of the
prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dpo_recipes.data.tokenize import CONTEXT_COLUMNS


@dataclass(frozen=True)
class ContextCollator:
    """A collator of preference pairs that removes context from the loss. Pairs without such columns are unchanged.

    `collate` is TRL 1.16's DataCollatorForPreference, which returns the chosen rows before the rejected rows and pads
    on the right.
    """

    collate: Any

    def __call__(self, pairs: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch of some pairs."""
        batch = self.collate(pairs)
        if CONTEXT_COLUMNS[0] not in pairs[0]:
            return batch
        rows = ((pair, column) for column in CONTEXT_COLUMNS for pair in pairs)
        for mask, (pair, column) in zip(batch["completion_mask"], rows, strict=True):
            first = len(pair["prompt_ids"])
            for start, stop in zip(pair[column][::2], pair[column][1::2], strict=True):
                mask[first + start : first + stop] = 0
        return batch
