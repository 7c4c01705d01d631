"""What is derived from the micro-batches of a step of answers: advantages over all of them, the correction of another
sampler, and the part of a checkpoint with those that further steps will use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from dpo_recipes.engine.collators import ADVANTAGES
from dpo_recipes.objectives.generation import SAMPLER_DIFFERENCE, SAMPLER_RATIO, Generation, importance_weights
from dpo_recipes.objectives.scores import TokenScores

Batch = dict[str, Any]
Sums = dict[str, tuple[Any, Any]]
"""Sums and numbers of values, by the keys of metrics."""
_FILE = "rollouts-{rank}.safetensors"


def normalize_advantages(batches: Sequence[Batch], counts: Sequence[bool], accelerator: Any) -> None:
    """Bring the advantages of a step, over all processes, to a mean of 0 and a deviation of 1. `counts` says which of
    the micro-batches of this process count."""
    own = [batch[ADVANTAGES] for batch, is_counted in zip(batches, counts, strict=True) if is_counted]
    values = torch.cat(own) if own else batches[0][ADVANTAGES][:0]
    of_step = torch.stack([values.sum(), values.square().sum(), torch.ones_like(values).sum()]).double()
    total, squares, count = accelerator.reduce(of_step, reduction="sum").tolist()
    mean = total / count
    deviation = max(0.0, (squares - count * mean**2) / (count - 1)) ** 0.5
    for batch in batches:
        batch[ADVANTAGES] = (batch[ADVANTAGES] - mean) / (deviation + 1e-4)


def correct_sampler(
    generation: Generation, policy: TokenScores, sampler: Sequence[Sequence[Sequence[float]]]
) -> tuple[torch.Tensor, Sums]:
    """The factors of the gains, and their metrics, from the log-probabilities of the policy now and of the sampler.

    The sampler's are [B][K] lists with a number for each token of an answer; the policy's have positions of the prompt
    and of padding too, whose mask is 0.
    """
    mask = policy.mask.bool()
    values = torch.zeros_like(policy.logps)
    values[mask] = torch.tensor(
        [value for group in sampler for answer in group for value in answer], dtype=values.dtype, device=values.device
    )
    weights = importance_weights(generation, policy.logps, values, policy.mask)
    apart = (policy.logps - values)[mask]
    known = apart[~apart.isnan()].abs()
    counted = weights[mask] if weights.shape == mask.shape else weights
    return weights, {
        SAMPLER_DIFFERENCE: (known.sum(), known.numel()),
        SAMPLER_RATIO: (counted.sum(), counted.numel()),
    }


def save_batches(batches: Sequence[Batch], folder: Path, rank: int) -> None:
    """Write the micro-batches of a process into a checkpoint."""
    tensors = {
        f"{place}/{name}": tensor.contiguous() for place, batch in enumerate(batches) for name, tensor in batch.items()
    }
    save_file(tensors, folder / _FILE.format(rank=rank))


def load_batches(folder: Path, rank: int, num_processes: int, device: str) -> list[Batch]:
    """The micro-batches of a process; none if a checkpoint has none, or those of another number of processes."""
    if len(list(folder.glob(_FILE.format(rank="*")))) != num_processes:
        return []
    batches: dict[int, Batch] = {}
    for key, tensor in load_file(folder / _FILE.format(rank=rank), device).items():
        place, _, name = key.partition("/")
        batches.setdefault(int(place), {})[name] = tensor
    return [batches[place] for place in sorted(batches)]
