"""Saves and restores a trainer's counts, so that a discarded pass leaves nothing in the metrics."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any

import torch

from dpo_recipes.engine.prefix_sharing import Positions


@dataclass(frozen=True)
class Counts:
    """One process's counts since the start of training, and its losses and metrics since the last logged row.

    `_tr_loss` is transformers 5.23's, `_metrics` and `_total_train_tokens` are TRL 1.16's;
    tests/integration/test_upstream.py fails when they move.
    """

    loss: torch.Tensor
    """The sum over micro-batches, on the device, because reading it would stall the device."""
    metrics: dict[str, list[float]]
    num_tokens: float
    positions: Positions


def snapshot(trainer: Any) -> Counts:
    """A copy of the counts so far."""
    metrics = {name: list(values) for name, values in trainer._metrics["train"].items()}
    positions = copy(trainer.prefix_sharing.trained)
    return Counts(trainer._tr_loss.clone(), metrics, trainer._total_train_tokens, positions)


def restore(trainer: Any, counts: Counts) -> None:
    """Restore a trainer's counts in place, because other objects hold references to them."""
    trainer._tr_loss.copy_(counts.loss)
    trainer._metrics["train"].clear()
    trainer._metrics["train"].update({name: list(values) for name, values in counts.metrics.items()})
    trainer._total_train_tokens = counts.num_tokens
    vars(trainer.prefix_sharing.trained).update(vars(counts.positions))
