"""Training that goes on when memory runs out: from the last step, with a smaller micro-batch and the same step."""

from __future__ import annotations

import gc
from copy import copy
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dpo_recipes.errors import causes, is_out_of_memory
from dpo_recipes.events import EventLog


def train_within_memory(trainer: Any, events: EventLog, *, adjusts: bool) -> Any:
    """`trainer.train()`; where memory runs out and `adjusts` is set, again from the last step with the next smaller
    micro-batch that keeps the effective batch, down to one pair. Then the error is raised as it came."""
    checkpoint: str | None = None
    mark = StepMark(trainer)
    trainer.add_callback(mark)
    while True:
        try:
            return trainer.train(resume_from_checkpoint=checkpoint)
        except (RuntimeError, MemoryError) as error:
            if not adjusts or not any(map(is_out_of_memory, causes(error))):
                raise
            size = smaller_micro_batch(trainer.args)
            if size is None:
                raise
            reason = str(error).strip().splitlines()[0]
        # Outside of the handler: the exception holds the frames, and these hold the tensors.
        checkpoint = _set_aside(trainer)
        mark.restore()
        change_micro_batch(trainer, size)
        events.emit(
            "note",
            text=f"out of memory after step {trainer.state.global_step} ({reason}); going on with "
            f"micro_batch_size {size} and gradient_accumulation_steps {trainer.args.gradient_accumulation_steps}",
        )


class StepMark(TrainerCallback):
    """Remembers what the trainer had counted by the last whole step, so that a broken one leaves nothing in metrics."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.num_tokens = trainer._total_train_tokens
        self.positions = copy(trainer.prefix_sharing.trained)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Remember."""
        self.num_tokens = self.trainer._total_train_tokens
        self.positions = copy(self.trainer.prefix_sharing.trained)

    def restore(self) -> None:
        """Forget what came after. Metrics of whole steps that were not logged yet go too; a mean lacks them then."""
        self.trainer._total_train_tokens = self.num_tokens
        vars(self.trainer.prefix_sharing.trained).update(vars(self.positions))
        self.trainer._metrics["train"].clear()


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


def _set_aside(trainer: Any) -> str | None:
    """Write a checkpoint of the last whole step, none before the first, and free what the failed one had made."""
    trainer.model.zero_grad(set_to_none=True)
    checkpoint = None
    if trainer.state.global_step:
        trainer._save_checkpoint(trainer.model, trial=None)
        checkpoint = f"{trainer.args.output_dir}/checkpoint-{trainer.state.global_step}"
    trainer.optimizer = trainer.lr_scheduler = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return checkpoint
