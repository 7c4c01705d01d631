"""The number of positions for which a model has an embedding."""

from __future__ import annotations

from typing import Any

from torch.nn import Embedding

_TABLES = ("position_embeddings", "wpe", "embed_positions")
"""The names of the tables of absolute positions in transformers 5.23: BERT and its relatives, GPT-2, OPT."""


def num_positions(model: Any) -> int | None:
    """The longest sequence that a model with a table of absolute positions can read, in tokens; None for a model
    without such a table. `model` may be on the `meta` device."""
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in _TABLES and isinstance(module, Embedding):
            # RoBERTa counts from the position after the one of padding, OPT from an offset.
            first = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - getattr(module, "offset", first)
    return None
