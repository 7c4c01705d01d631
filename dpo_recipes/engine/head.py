"""TRL's fused head on devices without Triton: only positions with a label are scored, in tiles that fit the cache."""

from __future__ import annotations

import torch
from trl.kernels import chunked_logprob
from trl.trainer import utils as trl_utils

_NEEDS_FIXED_SHAPES = ("neuron", "xla")
"""Devices that recompile for each number of positions; for these TRL scores all positions."""
_CPU_TILE_TOKENS = 128
"""Positions in a tile of logits. TRL's 4,096 suit GPUs: with a vocabulary of 32,768 a tile takes 512 MB and the passes
over it several times that; these tiles take 16 MB. Results are equal up to rounding and take a tenth less time."""

_TRL_TILE_TOKENS = chunked_logprob.TOKEN_CHUNK_SIZE


def prepare_head(device: str) -> None:
    """Make TRL 1.16's fused head skip positions without a label, as it does on CUDA, and use small tiles on a CPU.

    The head reads `trl.trainer.utils._use_triton` only to decide whether to skip them; its kernels read another name.
    On a CPU, scoring prompts and padding takes a fifth of a step's arithmetic. Both names are private upstream:
    tests/integration/test_upstream.py fails when either moves. This becomes unnecessary when TRL does both itself.
    """
    trl_utils._use_triton = _leaves_out_unlabelled  # pyright: ignore[reportPrivateImportUsage]
    chunked_logprob.TOKEN_CHUNK_SIZE = tile_tokens(device)


def tile_tokens(device: str) -> int:
    """Positions in a tile of logits on a device."""
    return _CPU_TILE_TOKENS if device == "cpu" else _TRL_TILE_TOKENS


def _leaves_out_unlabelled(device: torch.device) -> bool:
    return device.type not in _NEEDS_FIXED_SHAPES
