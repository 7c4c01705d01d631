"""What each strategy of `launch.strategy` shards across processes, and its name in the hardware rules.

ZeRO stage 1 shards the optimizer state, stage 2 also the gradients, and stage 3 also the weights (Rajbhandari et al.
2020, https://arxiv.org/abs/1910.02054, table 1); FSDP corresponds to stage 3.
"""

from __future__ import annotations

ZERO = ("deepspeed-zero1", "deepspeed-zero2", "deepspeed-zero3")
SHARDS_OPTIMIZER = ("fsdp", *ZERO)
SHARDS_GRADIENTS = ("fsdp", "deepspeed-zero2", "deepspeed-zero3")
SHARDS_WEIGHTS = ("fsdp", "deepspeed-zero3")
"""With these strategies, all processes must run the same number of passes through the model."""

SAVES_PIECES = ZERO
"""A checkpoint of these strategies has one shard for each process, and can be resumed only by the same number of
processes. FSDP's checkpoints have the full state."""

IN_RULES = {"fsdp": "fsdp2", "deepspeed-zero1": "zero1", "deepspeed-zero2": "zero2", "deepspeed-zero3": "zero3"}
"""The names of the strategies in `hardware.rules.supports_strategy`."""
