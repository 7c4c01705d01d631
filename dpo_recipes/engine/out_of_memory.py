"""Training that goes on when memory runs out: from the last step, with a smaller micro-batch and the same step."""

from __future__ import annotations

import gc
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dpo_recipes.engine.checkpoints.folder import newest_first
from dpo_recipes.engine.counts import Counts, put_back, take_counts
from dpo_recipes.errors import causes, is_out_of_memory
from dpo_recipes.events import EventLog


def train_within_memory(trainer: Any, events: EventLog, *, adjusts: bool) -> Any:
    """`trainer.train()`; where memory runs out and `adjusts` is set, again from the last step with the next smaller
    micro-batch that keeps the effective batch, down to one pair. Then the error is raised as it came."""
    mark = StepMark(trainer)
    if adjusts:
        trainer.add_callback(mark)
    while True:
        checkpoint = trainer.checkpoint_state.checkpoint
        try:
            return trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except (RuntimeError, MemoryError) as error:
            if not adjusts or not any(map(is_out_of_memory, causes(error))):
                raise
            size = smaller_micro_batch(trainer.args)
            if size is None:
                raise
            reason = str(error).strip().splitlines()[0]
        # Outside of the handler: the exception holds the frames, and these hold the tensors.
        mark.restore()
        _set_aside(trainer)
        change_micro_batch(trainer, size)
        events.emit(
            "note",
            text=f"out of memory after step {trainer.state.global_step} ({reason}); going on with "
            f"micro_batch_size {size} and gradient_accumulation_steps {trainer.args.gradient_accumulation_steps}",
        )


class StepMark(TrainerCallback):
    """Remembers what the trainer had counted when a step began, so that a broken one leaves nothing in metrics."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.counts: Counts | None = None
        """None before the first step."""

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remember."""
        self.counts = take_counts(self.trainer)

    def restore(self) -> None:
        """Forget what came after."""
        if self.counts is not None:
            put_back(self.trainer, self.counts)


def smaller_micro_batch(args: Any) -> int | None:
    """The largest micro-batch below the present one that divides the pairs of a step; none below one."""
    total = args.per_device_train_batch_size * args.gradient_accumulation_steps
    return next((size for size in range(args.per_device_train_batch_size - 1, 0, -1) if total % size == 0), None)


def change_micro_batch(trainer: Any, size: int) -> None:
    """Give a trainer another micro-batch and the accumulation that keeps its effective batch.

    accelerate's own count of accumulated passes stays at 1: transformers 5.23 divides the loss itself.
    """
    args = trainer.args
    total = args.per_device_train_batch_size * args.gradient_accumulation_steps
    args.per_device_train_batch_size = trainer._train_batch_size = size
    args.gradient_accumulation_steps = total // size


def _set_aside(trainer: Any) -> None:
    """Write a checkpoint of the last whole step, none before the first, and free what the failed one had made."""
    trainer.model.zero_grad(set_to_none=True)
    if trainer.state.global_step:
        trainer._save_checkpoint(trainer.model, trial=None)
        trainer.checkpoints.wait()
        trainer.checkpoint_state.checkpoint = next(newest_first(trainer.checkpoints.folder))
    trainer.optimizer = trainer.lr_scheduler = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
