"""What the strategies of `launch.strategy` cut up among processes, and what the rules of a device call them.

ZeRO stages 1, 2 and 3 cut the optimizer's state, also the gradients, and also the weights (Rajbhandari et al. 2020,
https://arxiv.org/abs/1910.02054, table 1); FSDP is stage 3.
"""

from __future__ import annotations

ZERO = ("deepspeed-zero1", "deepspeed-zero2", "deepspeed-zero3")
SHARDS_OPTIMIZER = ("fsdp", *ZERO)
SHARDS_GRADIENTS = ("fsdp", "deepspeed-zero2", "deepspeed-zero3")
SHARDS_WEIGHTS = ("fsdp", "deepspeed-zero3")
"""With these every process must go through the model as often as every other."""

SAVES_PIECES = ZERO
"""A checkpoint of these has a file of each process's share, and is read by as many; FSDP's state is put together."""

IN_RULES = {"fsdp": "fsdp2", "deepspeed-zero1": "zero1", "deepspeed-zero2": "zero2", "deepspeed-zero3": "zero3"}
"""The names that `hardware.rules.supports_strategy` takes."""
