"""Changes the warm-up of a learning rate schedule so that every step trains."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any


def begin_above_zero(scheduler: Any, num_warmup_steps: int) -> None:
    """Set the rate of step k, counted from 1, in a warm-up of W steps to k / (W + 1) of the peak rate.

    transformers' schedules (5.23) use (k - 1) / W: their first step has a rate of 0 and changes nothing, and the only
    step of a warm-up of one is lost. After the warm-up, and in a schedule without a warm-up, all rates are unchanged.
    """
    lambdas: list[Callable[[int], float]] = scheduler.lr_lambdas
    if num_warmup_steps < 1 or any(rate(0) != 0.0 for rate in lambdas):
        return
    scheduler.lr_lambdas = [partial(_rate, num_warmup_steps=num_warmup_steps, after=rate) for rate in lambdas]
    # The scheduler has already set the rate of the first step.
    for group, base_rate, rate in zip(
        scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
    ):
        group["lr"] = base_rate * rate(scheduler.last_epoch)
    scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]


def _rate(step: int, *, num_warmup_steps: int, after: Callable[[int], float]) -> float:
    """The share of the peak rate in a step, counted from 0."""
    return (step + 1) / (num_warmup_steps + 1) if step < num_warmup_steps else after(step)
