"""The peak memory of one process, part by part and phase by phase."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dpo_recipes.fit.planner.optimizers import optimizer_cost
from dpo_recipes.fit.planner.rollout import RolloutCost
from dpo_recipes.fit.planner.sharding import Sharding
from dpo_recipes.fit.simulation.meta_model import MetaModel, Weights
from dpo_recipes.fit.simulation.passes import Batch, simulate
from dpo_recipes.fit.simulation.trace import Rates, Trace
from dpo_recipes.launch.batch import batch_of
from dpo_recipes.objectives import objective_of

MIB = 2**20
# Python with torch, transformers, TRL and datasets: resident on a CPU (benchmarks/memory.py measures it).
_CPU_PROCESS = 620 * MIB
# cuBLAS keeps a workspace (8 MiB, 32 from Hopper on; CUBLAS_WORKSPACE_CONFIG); the context is in Device.usable_bytes.
_CUDA_PROCESS = 64 * MIB
# Memory that an allocator holds beyond what is in use, in blocks too small for the next tensor. On a GPU it is a share
# of all temporary tensors. On a CPU (glibc) tensors that a layer keeps split the blocks that it frees, so that in each
# layer one to two blocks of the size of its hidden states stay unused: a share of the activations, and more than all of
# them if layers keep nothing else. The LM head's tiles also leave blocks free that only larger, later tensors could
# use.
_FRAGMENTATION = {"cpu": 0.10, "cuda": 0.05, "mps": 0.05}
_RESIDENT = ("weights", "adapter", "reference", "reward_models", "vllm", "overhead")
"""The parts that are there before the first pass."""
_CPU_CHECKPOINTED = 1.5
_CPU_LEFT = 120 * MIB
_CPU_TILES_AND_LEFT = 300 * MIB


@dataclass(frozen=True)
class Phase:
    """One stage of a run and the parts of its peak, in bytes."""

    name: str
    parts: dict[str, int]

    @property
    def peak_bytes(self) -> int:
        """The sum of its parts."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class MemoryEstimate:
    """The phases of a run; the highest one must fit."""

    phases: tuple[Phase, ...]
    step: Trace
    """The training micro-batch on which the estimate is based."""

    @property
    def highest(self) -> Phase:
        """The phase with the highest peak."""
        return max(self.phases, key=lambda phase: phase.peak_bytes)

    @property
    def peak_bytes(self) -> int:
        """The memory that one process needs on its device."""
        return self.highest.peak_bytes

    def to_json(self) -> dict[str, Any]:
        """Peak, the parts of the highest phase, and the peak of each phase."""
        return {
            "peak_bytes": self.peak_bytes,
            "parts": self.highest.parts,
            "peak_phase": self.highest.name,
            "phases": {phase.name: phase.peak_bytes for phase in self.phases},
        }


def estimate_memory(
    meta_model: MetaModel,
    weights: Weights,
    longest: Batch,
    rates: Rates,
    sharding: Sharding,
    rollout: RolloutCost | None = None,
) -> MemoryEstimate:
    """The peak of each phase, for the largest micro-batch of the data."""
    step = simulate(meta_model, longest, rates)
    forward = simulate(meta_model, longest, rates, trains=False)
    recipe = meta_model.recipe
    reference = objective_of(recipe).reference(recipe.objective)
    without_gradients = "reference" if reference == "frozen" else "evaluation"
    resident = {
        "weights": sharding.weights(weights.base),
        "adapter": weights.adapter,
        "overhead": _CUDA_PROCESS if meta_model.device == "cuda" else _CPU_PROCESS,
    }
    while_loading = dict(resident)
    if reference == "live":
        resident["reference"] = weights.trainable_bytes
    elif reference == "each_step" and recipe.model.adapter is None:
        resident["reference"] = weights.base
    if rollout is not None:
        resident["reward_models"] = rollout.reward_bytes
        if not rollout.vllm_sleeps:
            resident["vllm"] = rollout.vllm_bytes
    cost = optimizer_cost(meta_model.recipe.training.optimizer, meta_model.device)
    gradients = sharding.gradients(weights.trainable_bytes)
    optimizer = sharding.optimizer(int(weights.num_trainable * cost.state))
    phases = (
        Phase("loading", _loading(meta_model, weights, while_loading)),
        Phase(without_gradients, {**resident, "activations": _activations(meta_model, weights, forward, trains=False)}),
        Phase("training", {**resident, **_training(meta_model, weights, step, gradients, optimizer)}),
        Phase(
            "optimizer step",
            {
                **resident,
                "gradients": gradients,
                "optimizer": optimizer,
                "optimizer_step": int(sharding.share(weights.num_trainable * cost.step)),
            },
        ),
    )
    if rollout is not None:
        # The optimizer's state is there from the second step on.
        parts = {**resident, "optimizer": optimizer, "cache": rollout.cache_bytes, "vllm": rollout.vllm_bytes}
        phases = (*phases, Phase("generation", parts))
    return MemoryEstimate(tuple(_with_fragmentation(phase, meta_model) for phase in phases), step)


def _training(meta_model: MetaModel, weights: Weights, step: Trace, gradients: int, optimizer: int) -> dict[str, int]:
    """Forward and backward pass of the last micro-batch of a later step, when gradients of earlier micro-batches and
    the optimizer state exist."""
    accumulates = batch_of(meta_model.recipe).accumulates
    activations, new_gradients = step.peak
    kept = min(step.kept, activations)
    return {
        "gradients": gradients if accumulates else int(new_gradients),
        "optimizer": optimizer,
        "activations": int(kept),
        # At the peak beside what the layers keep: the LM head's tiles, or one layer's pass backward.
        "head_or_layer": int(activations - kept) + _unpacked(meta_model, weights),
    }


def _activations(meta_model: MetaModel, weights: Weights, trace: Trace, *, trains: bool) -> int:
    return int(sum(trace.peak)) + _unpacked(meta_model, weights)


def _unpacked(meta_model: MetaModel, weights: Weights) -> int:
    """The largest quantized matrix in the precision in which it is multiplied."""
    if meta_model.own_quantization is None and meta_model.recipe.model.quantization is None:
        return 0
    return weights.largest_quantized * (2 if meta_model.autocast_dtype is not None else 4)


def _loading(meta_model: MetaModel, weights: Weights, resident: dict[str, int]) -> dict[str, int]:
    """Weights come from files one tensor at a time; a quantized base needs one more matrix while it is packed."""
    return {**resident, "unpacked": _unpacked(meta_model, weights)}


def _with_fragmentation(phase: Phase, meta_model: MetaModel) -> Phase:
    moving = sum(size for name, size in phase.parts.items() if name not in _RESIDENT)
    parts = {name: size for name, size in phase.parts.items() if size}
    share = _FRAGMENTATION[meta_model.device]
    if meta_model.device == "cpu":
        checkpoints = phase.name == "training" and meta_model.recipe.training.gradient_checkpointing
        left = max(0, _CPU_TILES_AND_LEFT - parts.get("head_or_layer", 0))
        share = _CPU_CHECKPOINTED if checkpoints else share
        held = min(_CPU_LEFT, left, moving) + share * parts.get("activations", 0)
    else:
        held = share * moving
    return Phase(phase.name, {**parts, "fragmentation": int(held)})
