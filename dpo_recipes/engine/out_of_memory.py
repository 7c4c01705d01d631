"""Resumes training after running out of memory, from the last step, with a smaller micro-batch and the same batch.

A micro-batch that the loss depends on is never made smaller: the error of the failed step is raised.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dpo_recipes.data.lengths import row_lengths
from dpo_recipes.engine.checkpoints.folder import PREFIX
from dpo_recipes.engine.counts import Counts, restore, snapshot
from dpo_recipes.errors import causes, is_out_of_memory
from dpo_recipes.evaluate.passes import free_memory
from dpo_recipes.events import EventLog
from dpo_recipes.launch.batch import divisors
from dpo_recipes.objectives import fixed_micro_batch_reason


def train_within_memory(trainer: Any, events: EventLog, *, adjusts: bool) -> Any:
    """`trainer.train()`. If memory runs out and `adjusts` is set, it resumes from the last step with the next smaller
    micro-batch that keeps the effective batch, down to one row. After that the error is raised. An error in the
    optimizer is always raised: it has changed only some weights, and needs as much memory with any micro-batch."""
    mark = StepMark(trainer)
    if adjusts:
        trainer.add_callback(mark)
    while True:
        checkpoint = trainer.checkpoint_state.checkpoint
        try:
            return trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except (RuntimeError, MemoryError) as error:
            if not adjusts or mark.is_updating or not any(map(is_out_of_memory, causes(error))):
                raise
            smaller = smaller_micro_batch(trainer)
            if smaller is None:
                raise
            reason = str(error).strip().splitlines()[0]
        # This is outside of the handler, because the exception holds the frames, and these hold the tensors.
        mark.restore()
        _set_aside(trainer)
        settings = smaller()
        events.note(f"out of memory after step {trainer.state.global_step} ({reason}); resuming with {settings}")


class StepMark(TrainerCallback):
    """Saves the trainer's counts at the start of a step, so that a failed step leaves nothing in the metrics."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.counts: Counts | None = None
        """None before the first step."""
        self.step = 0
        self.is_updating = False
        """Whether the optimizer is in the middle of a step, so that only some weights have changed."""

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remember."""
        self.counts, self.step = snapshot(self.trainer), state.global_step

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The optimizer starts to change the weights."""
        self.is_updating = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The step is complete."""
        self.is_updating = False

    def restore(self) -> None:
        """Restore the counts, unless the step was complete and memory ran out in an evaluation."""
        if self.counts is not None and self.trainer.state.global_step == self.step:
            restore(self.trainer, self.counts)


def smaller_micro_batch(trainer: Any) -> Callable[[], str] | None:
    """A function that sets the next smaller micro-batch with the same effective batch and returns a description of it.
    None if the micro-batch is already one row, or if another one would change the loss."""
    if fixed_micro_batch_reason(trainer.context.recipe):
        return None
    if trainer.max_tokens is not None:
        longest = int(row_lengths(trainer.train_dataset).sum(axis=1).max())
        budget = max(longest, trainer.max_tokens // 2)
        return partial(_change_budget, trainer, budget) if budget < trainer.max_tokens else None
    args = trainer.args
    total = args.per_device_train_batch_size * args.gradient_accumulation_steps
    sizes = divisors(total, args.per_device_train_batch_size - 1)
    return partial(_change_size, trainer, sizes[0]) if sizes else None


def _change_budget(trainer: Any, max_tokens: int) -> str:
    # --fit adjusts only a single process, whose reference pass and evaluations are divided as well.
    trainer.max_tokens = trainer.prefix_sharing.max_tokens_per_pass = max_tokens
    return f"max_tokens_per_pass {max_tokens}"


def _change_size(trainer: Any, size: int) -> str:
    # accelerate's own count of accumulated passes stays at 1: transformers 5.23 divides the loss itself.
    args = trainer.args
    total = args.per_device_train_batch_size * args.gradient_accumulation_steps
    args.per_device_train_batch_size = trainer._train_batch_size = size
    args.gradient_accumulation_steps = total // size
    args.per_device_eval_batch_size = min(size, args.per_device_eval_batch_size)
    return f"micro_batch_size {size} and gradient_accumulation_steps {args.gradient_accumulation_steps}"


def _set_aside(trainer: Any) -> None:
    """Write a checkpoint of the last complete step, if there is one, and free the memory of the failed step."""
    trainer.model.zero_grad(set_to_none=True)
    if trainer.state.global_step:
        trainer.checkpoint_state.owe_evaluation(trainer.control.should_evaluate)
        trainer._save_checkpoint(trainer.model, trial=None)
        trainer.checkpoints.wait()
        # Chosen by name, because a damaged checkpoint of a later step may exist too.
        trainer.checkpoint_state.checkpoint = trainer.checkpoints.folder / f"{PREFIX}{trainer.state.global_step}"
    trainer.optimizer = trainer.lr_scheduler = None
    free_memory()
