"""Decides when a checkpoint is written, and restores the state of a resumed run."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed
from transformers.trainer_utils import IntervalStrategy

from dpo_recipes.engine.callbacks.stop import StopRequest, interrupted
from dpo_recipes.engine.checkpoints.choice import Start
from dpo_recipes.engine.checkpoints.loop_state import restore_loop_state
from dpo_recipes.engine.distributed import DistributedContext
from dpo_recipes.events import EventLog
from dpo_recipes.objectives.metric import Metric
from dpo_recipes.recipe.schema.checkpoints import Checkpoints

_LARGEST_SHARE = 0.05
"""The share of training time that time-based checkpoints may take."""
_WORTH_SAVING_S = 60.0
"""A checkpoint after the last step is written if it saves at least this many seconds of repeated training."""


class CheckpointCallback(TrainerCallback):
    """Requests checkpoints by steps or by the clock, and a last one when a stop was requested.

    A step that ends an epoch is saved after that epoch's evaluation, so that a resumed run does not miss it.
    """

    def __init__(
        self,
        settings: Checkpoints,
        stop: StopRequest,
        metrics: Path,
        events: EventLog,
        start: Start,
        distributed: DistributedContext,
        best_metric: Metric | None = None,
    ) -> None:
        self.settings = settings
        self.stop = stop
        self.metrics = metrics
        self.events = events
        self.checkpoint = start.path
        """The checkpoint from which this run resumes."""
        self.saved_step = start.step
        """Of the newest one."""
        self.trainer: Any = None
        """Set when it exists; transformers passes callbacks the model but not itself."""
        self.distributed = distributed
        self.base: Any = None
        """The callback that measured the untouched base (callbacks/baseline.py). A resumed run does not repeat that."""
        self.earlier_s = 0.0
        """Seconds of training before this process."""
        self._began = self._last = time.monotonic()
        self._waiting = self._is_stopped = False
        self._is_evaluation_due = False
        self.best_metric = best_metric
        """The metric of `keep_best`, or None if it is off."""
        self._best_name = f"eval_{best_metric.key}" if best_metric else ""
        """The column of that metric, and the name of the fact that the best checkpoint's manifest has."""
        self._best_value: float | None = None if start.best is None else start.best.facts[self._best_name]
        self._value_to_save: float | None = None
        """The value of the model that is to be saved if it is the best so far."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Restore the counts of the checkpoint. Without one, start with the seed's random state, whatever came
        before."""
        self.stop.training = True
        self._began = self._last = time.monotonic()
        if self.checkpoint is None:
            set_seed(args.seed)
            return
        earlier = restore_loop_state(self.trainer, self.checkpoint)
        self.earlier_s = earlier["trained_s"]
        if earlier["is_evaluation_due"]:
            self.trainer.evaluate()
            if self._value_to_save is not None:
                # transformers discards a request to save before the next step, and restores random states only then.
                self.trainer._load_rng_state(str(self.checkpoint))
                self.trainer._save_checkpoint(self.trainer.model, trial=None)
                self.trainer.checkpoints.wait()  # it replaces the one that is still being read

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Decide; all processes decide the same."""
        wishes = self.distributed.highest([self.stop.is_set, self._is_due(state)])
        self._is_stopped, is_due = map(bool, wishes)
        if self._is_stopped:
            self.stop.is_set = control.should_training_stop = True
            # A run that is stopped may have no time for an evaluation: the resumed run does it.
            after_epoch = _is_evaluated(state) and args.eval_strategy == IntervalStrategy.EPOCH
            self._is_evaluation_due = control.should_evaluate or after_epoch
            control.should_evaluate = False
        self._waiting = is_due and _is_evaluated(state) and not self._is_stopped
        control.should_save = self._is_stopped or (is_due and not self._waiting)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save what was decided in the epoch's last step."""
        control.should_save, self._waiting = self._waiting, False
        if self._is_stopped:  # as agreed after the step; a stop requested since then skips the evaluation
            control.should_evaluate = False

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End an evaluation when a stop was requested, because a cluster may give less time. Raises `Interrupted`."""
        if self.stop.training and self.distributed.any(self.stop.is_set):
            self.stop.is_set = True
            raise interrupted("it was being evaluated after its last checkpoint")

    def leave_evaluation(self, control: TrainerControl) -> None:
        """After an evaluation was ended early, save the step before it, and record that the evaluation is due."""
        self._is_evaluation_due = control.should_save = control.should_training_stop = True

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """With `keep_best`, save a model that is better than all before; all processes have the same metrics."""
        if self.best_metric is None or not state.global_step or not self.trainer.is_in_train:
            return
        value = (metrics or {}).get(self._best_name)
        if self.best_metric.is_better(value, self._best_value):
            self._best_value = self._value_to_save = value
            control.should_save = True

    def take_state(self) -> dict[str, Any]:
        """The state that a checkpoint keeps for `on_train_begin`."""
        self.events.emit("saving")
        if self.distributed.is_main and self.metrics.exists():
            with self.metrics.open("rb") as file:
                os.fsync(file.fileno())  # a checkpoint that survives a power cut relies on these rows
        due, self._is_evaluation_due = self._is_evaluation_due, False
        return {
            "trained_s": self.earlier_s + time.monotonic() - self._began,
            "is_evaluation_due": due,
            "metrics_bytes": self.metrics.stat().st_size if self.metrics.exists() else 0,
            "base": asdict(self.base.results),
        }

    def owe_evaluation(self, is_due: bool) -> None:
        """Record in the next checkpoint whether an evaluation is due."""
        self._is_evaluation_due = is_due

    def take_facts(self) -> dict[str, Any]:
        """The facts for its manifest."""
        value, self._value_to_save = self._value_to_save, None
        return {} if value is None else {"is_best": True, self._best_name: value}

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Restart the clock. A step that was saved as the best one is not saved again at the end of its epoch."""
        self._last = time.monotonic()
        self._waiting = False
        self.saved_step = state.global_step
        self.events.emit("saved")

    def _is_due(self, state: TrainerState) -> bool:
        if self.settings.save_steps is not None:
            return state.global_step % self.settings.save_steps == 0
        if self.settings.save_minutes is None:
            return False
        since = time.monotonic() - self._last
        if state.global_step >= state.max_steps:
            return since > _WORTH_SAVING_S
        return since > max(60 * self.settings.save_minutes, self.trainer.checkpoints.last_s / _LARGEST_SHARE)


def _is_evaluated(state: TrainerState) -> bool:
    """Whether an epoch ends with this step. For transformers, the epoch in which training stops ends too."""
    ends_epoch = state.epoch is not None and float(state.epoch).is_integer()
    return ends_epoch or state.global_step >= state.max_steps
