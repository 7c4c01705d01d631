"""What it takes to write several answers at once: the cache of keys and values, the newest logits, and the time.

The cache and the logits of the newest token follow from shapes. Writing a token reads all weights once, or computes two
operations for each of them and each answer, whichever takes longer, and the Python of a step costs a constant.
"""

from __future__ import annotations

from typing import Any

from dpo_recipes.fit.simulation.meta_model import Weights
from dpo_recipes.fit.simulation.trace import Rates

STEP_S = 0.02
"""The Python of a token's step: 30 layers of transformers on one core."""


def cache_bytes(config: Any, num_rows: int, num_tokens: int, item_bytes: int) -> int:
    """The keys and values of so many tokens of each row, in all layers of a configuration."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * width * item_bytes * num_rows * num_tokens


def logits_bytes(config: Any, num_rows: int) -> int:
    """The logits of the newest token of each row: as they are, in 32 bits, and sorted."""
    return 3 * 4 * config.get_text_config().vocab_size * num_rows


def token_s(weights: Weights, num_rows: int, rates: Rates, python_s: float = STEP_S) -> float:
    """The time for the next token of each row."""
    return max(weights.base / rates.bandwidth, 2 * weights.num_base * num_rows / rates.flops) + python_s
