"""Tokens of an answer that are read and not trained: what others than the assistant say in it.

The loss, the metrics and the reference read a batch's `completion_mask`. Such tokens become 0 there, as the prompt's
are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dpo_recipes.data.tokenize import CONTEXT_COLUMNS


@dataclass(frozen=True)
class ContextCollator:
    """A collator of preference pairs that takes their context out of the loss. Pairs without such columns pass as
    they are.

    `collate` is TRL 1.16's DataCollatorForPreference, which gives the chosen rows before the rejected ones and pads on
    the right.
    """

    collate: Any

    def __call__(self, pairs: list[dict[str, Any]]) -> dict[str, Any]:
        """The batch of some pairs."""
        batch = self.collate(pairs)
        if CONTEXT_COLUMNS[0] not in pairs[0]:
            return batch
        rows = ((pair, column) for column in CONTEXT_COLUMNS for pair in pairs)
        for mask, (pair, column) in zip(batch["completion_mask"], rows, strict=True):
            first = len(pair["prompt_ids"])
            for start, stop in zip(pair[column][::2], pair[column][1::2], strict=True):
                mask[first + start : first + stop] = 0
        return batch
