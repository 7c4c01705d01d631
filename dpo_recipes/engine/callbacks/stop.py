"""A clean end on request, and an immediate one when training has gone wrong."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dpo_recipes.errors import Interrupted, RunError


class StopRequest:
    """Set by SIGINT or SIGTERM. Training finishes its step and writes a checkpoint; other stages end at once."""

    def __init__(self) -> None:
        self.is_set = False
        self.training = False

    def install(self) -> None:
        """Take over both signals for this process."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.is_set = True
        if not self.training:
            raise interrupted("before training had begun, or after it had ended; nothing is lost but time")


def interrupted(why: str) -> Interrupted:
    """The error that says that a run was stopped on request."""
    return Interrupted.of("I130", "the run was interrupted", why=why, fix="run the recipe again: it starts anew")


class StopCallback(TrainerCallback):
    """Ends training after the current step when a stop was requested, with a checkpoint."""

    def __init__(self, request: StopRequest, agree: Callable[[bool], bool] = bool) -> None:
        self.request = request
        self.agree = agree
        """Of several processes, whether any was asked to: all must stop after the same step."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """From here on there is something to save."""
        self.request.training = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop if asked to."""
        self.request.is_set = self.agree(self.request.is_set)
        if self.request.is_set:
            control.should_save = control.should_training_stop = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Raise `RunError` T604 when the loss is no number: all later steps would be wasted."""
        loss = (logs or {}).get("loss")
        if isinstance(loss, float) and not math.isfinite(loss):
            raise RunError.of(
                "T604",
                f"the loss is {loss} at step {state.global_step}",
                why="the weights have diverged or overflowed; nothing after this step can be used",
                fix="lower `training.learning_rate`, or use `model.dtype: float32`",
            )
