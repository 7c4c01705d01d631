"""Ends a run cleanly on request, and at once when training has diverged."""

from __future__ import annotations

import math
import signal
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dpo_recipes.engine.checkpoints.folder import newest_first
from dpo_recipes.errors import Interrupted, RunError


class StopRequest:
    """Set by SIGINT or SIGTERM. Training finishes its step and writes a checkpoint; other stages end at once."""

    def __init__(self, checkpoints: Path | None = None) -> None:
        self.checkpoints = checkpoints
        self.is_set = False
        self.training = False
        self.trained = False
        """Whether training is over."""

    def install(self) -> None:
        """Take over both signals for this process."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # Only once: torchrun's agent signals workers again, and what they save after the first signal must not be lost.
        is_first, self.is_set = not self.is_set, True
        if is_first and not self.training:
            raise self._error()

    def _error(self) -> Interrupted:
        if self.checkpoints is not None and any(newest_first(self.checkpoints)):
            return interrupted("after its last checkpoint")
        why = "training had not started; finished data and reference log-probabilities stay in the cache"
        if self.trained:
            why = "training was over, but `checkpoints` requested no checkpoint to resume from"
        return Interrupted.of(
            "I130", "the run was stopped before there was anything to resume from", why=why, fix="run the recipe again"
        )


def interrupted(why: str) -> Interrupted:
    """The error for a run that was stopped on request and can be resumed."""
    return Interrupted.of("I101", "the run was interrupted", why=why, fix="run the recipe again: it resumes from there")


class DivergenceCallback(TrainerCallback):
    """Ends training when the loss is not a number."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Raise `RunError` T604 when the loss is not a number: all later steps would be wasted."""
        loss = (logs or {}).get("loss")
        if isinstance(loss, float) and not math.isfinite(loss):
            why = "the weights have diverged or overflowed; nothing after this step can be used"
            if state.global_step == 1:  # computed before a weight was changed
                why = "no weight has changed yet and the reference is finite, so numbers overflow in this precision"
            raise RunError.of(
                "T604",
                f"the loss is {loss} at step {state.global_step}",
                why=why,
                fix="lower `training.learning_rate`, or use `model.dtype: float32`",
            )
