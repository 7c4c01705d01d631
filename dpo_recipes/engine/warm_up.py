"""A warm-up in which every step trains."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any


def begin_above_zero(scheduler: Any, num_warmup_steps: int) -> None:
    """Have step k of a warm-up of W steps, counted from 1, take k / (W + 1) of the peak rate.

    transformers' schedules (5.23) take (k - 1) / W: their first step has a rate of 0 and changes nothing, and the only
    step of a warm-up of one is lost. From the first step after the warm-up on, rates are theirs. A schedule without a
    warm-up keeps all of its rates.
    """
    lambdas: list[Callable[[int], float]] = scheduler.lr_lambdas
    if num_warmup_steps < 1 or any(rate(0) != 0.0 for rate in lambdas):
        return
    scheduler.lr_lambdas = [partial(_rate, num_warmup_steps=num_warmup_steps, after=rate) for rate in lambdas]
    # The scheduler has given the optimizer the rate of its first step already.
    for group, base_rate, rate in zip(
        scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
    ):
        group["lr"] = base_rate * rate(scheduler.last_epoch)
    scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]


def _rate(step: int, *, num_warmup_steps: int, after: Callable[[int], float]) -> float:
    """The share of the peak rate, of a step that is counted from 0."""
    return (step + 1) / (num_warmup_steps + 1) if step < num_warmup_steps else after(step)
