"""The memory of optimizers, in bytes for each trained parameter."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OptimizerCost:
    """`state` is kept between steps; `step` is needed during a step."""

    state: float
    step: float = 0.0
    is_paged: bool = False
    """Whether its state moves to the computer's memory when a GPU's runs out (CUDA unified memory)."""


_FOREACH = 4.0
"""torch's `foreach` form works on lists of tensors: one temporary list as large as all parameters."""
_BYTE = 1 + 4 / 256
"""bitsandbytes 0.50 and torchao: a moment in 8 bits, and a float32 for each 256 values."""

_COSTS = {
    "adamw_torch": OptimizerCost(8.0, _FOREACH),
    "adamw_torch_fused": OptimizerCost(8.0),
    "adamw_torch_8bit": OptimizerCost(2 * _BYTE),
    "adamw_8bit": OptimizerCost(2 * _BYTE),
    "paged_adamw_8bit": OptimizerCost(2 * _BYTE, is_paged=True),
    "paged_adamw_32bit": OptimizerCost(8.0, is_paged=True),
    "lion_32bit": OptimizerCost(4.0),
    "lion_8bit": OptimizerCost(_BYTE),
    "paged_lion_32bit": OptimizerCost(4.0, is_paged=True),
    "paged_lion_8bit": OptimizerCost(_BYTE, is_paged=True),
    "ademamix": OptimizerCost(12.0),
    "ademamix_8bit": OptimizerCost(3 * _BYTE),
    # Rows and columns of a matrix instead of all of it (https://arxiv.org/abs/1804.04235): an upper bound for LoRA's
    # narrow ones.
    "adafactor": OptimizerCost(0.3, 4.0),
    "adagrad": OptimizerCost(4.0, _FOREACH),
    "rmsprop": OptimizerCost(4.0, _FOREACH),
    "sgd": OptimizerCost(0.0),
    "schedule_free_adamw": OptimizerCost(8.0, _FOREACH),
    "schedule_free_radam": OptimizerCost(8.0, _FOREACH),
}


def optimizer_cost(name: str, device: str) -> OptimizerCost:
    """The cost of an optimizer by the name a recipe gives it; on a CPU torch goes one tensor at a time."""
    cost = _COSTS[name]
    one_by_one = device == "cpu" and not name.startswith("schedule_free")
    return OptimizerCost(cost.state, 0.0 if one_by_one else cost.step, cost.is_paged and device == "cuda")
