"""TRL's fused head on devices without Triton: only positions with a label are scored, in tiles that fit the cache."""

from __future__ import annotations

import torch
from trl.kernels import chunked_logprob
from trl.trainer import utils as trl_utils

_NEEDS_FIXED_SHAPES = ("neuron", "xla")
"""Devices that compile anew for each number of positions, for whose sake TRL scores all of them."""
_CPU_TILE_TOKENS = 128
"""Positions in a tile of logits. TRL's 4,096 are made for GPUs: with 32,768 words a tile takes 512 MB, and the passes
over it several times that, where these take 16 MB each. Results are equal to rounding, in a tenth less of time."""

_TRL_TILE_TOKENS = chunked_logprob.TOKEN_CHUNK_SIZE


def prepare_head(device: str) -> None:
    """Have TRL 1.16's fused head leave out positions without a label, as it does on CUDA, and use small tiles on a CPU.

    The head asks `trl.trainer.utils._use_triton` whether to leave them out, and for nothing else: its kernels ask
    another name. On a CPU, scoring prompts and padding takes a fifth of a plain step's arithmetic. Private upstream:
    tests/integration/test_upstream.py fails when either name moves. Ends when TRL does both by itself.
    """
    trl_utils._use_triton = _leaves_out_unlabelled  # pyright: ignore[reportPrivateImportUsage]
    chunked_logprob.TOKEN_CHUNK_SIZE = tile_tokens(device)


def tile_tokens(device: str) -> int:
    """Positions in a tile of logits on a device."""
    return _CPU_TILE_TOKENS if device == "cpu" else _TRL_TILE_TOKENS


def _leaves_out_unlabelled(device: torch.device) -> bool:
    return device.type not in _NEEDS_FIXED_SHAPES
