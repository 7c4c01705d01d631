"""TRL's fused head on devices without Triton: only positions with a label are scored."""

from __future__ import annotations

import torch
from trl.trainer import utils as trl_utils

_NEEDS_FIXED_SHAPES = ("neuron", "xla")
"""Devices that compile anew for each number of positions, for whose sake TRL scores all of them."""


def score_labelled_positions() -> None:
    """Have TRL 1.16's fused head leave out positions without a label on a CPU and on MPS, as it does on CUDA.

    The head asks `trl.trainer.utils._use_triton` whether to leave them out, and for nothing else: its kernels ask
    another name. On a CPU, scoring prompts and padding took a third of a plain DPO step. Private upstream:
    tests/integration/test_upstream.py fails when it moves. Ends when TRL leaves them out by itself.
    """
    trl_utils._use_triton = _leaves_out_unlabelled  # pyright: ignore[reportPrivateImportUsage]


def _leaves_out_unlabelled(device: torch.device) -> bool:
    return device.type not in _NEEDS_FIXED_SHAPES
