"""Saves and restores a trainer's counts, so that a discarded pass leaves nothing in the metrics."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any

import torch

from dpo_recipes.engine.metric_counts import Snapshot
from dpo_recipes.engine.prefix_sharing import Positions


@dataclass(frozen=True)
class Counts:
    """One process's counts since the start of training, and its losses and metrics since the last logged row.

    `_tr_loss` is transformers 5.23's; tests/integration/test_upstream.py fails when it moves.
    """

    loss: torch.Tensor
    """The sum over micro-batches, on the device, because reading it would stall the device."""
    metrics: Snapshot
    positions: Positions


def snapshot(trainer: Any) -> Counts:
    """A copy of the counts so far."""
    return Counts(trainer._tr_loss.clone(), trainer.metric_counts.snapshot(), copy(trainer.prefix_sharing.trained))


def restore(trainer: Any, counts: Counts) -> None:
    """Restore a trainer's counts in place, because other objects hold references to them."""
    trainer._tr_loss.copy_(counts.loss)
    trainer.metric_counts.restore(counts.metrics)
    vars(trainer.prefix_sharing.trained).update(vars(counts.positions))
