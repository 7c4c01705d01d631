"""Tries the largest micro-batch first, so that a job that does not fit fails before anything has been trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dpo_recipes.data.lengths import row_lengths
from dpo_recipes.engine.counts import restore, snapshot
from dpo_recipes.engine.token_budget import as_lengths, largest_group
from dpo_recipes.events import EventLog


class ProbeCallback(TrainerCallback):
    """Computes one forward and backward pass on the largest micro-batch before the first step, and discards it.

    Gradients of earlier micro-batches and the optimizer state do not exist yet. Memory for them is reserved while the
    pass runs.
    """

    def __init__(self, rows: Any, reserve_bytes: int, events: EventLog) -> None:
        self.rows = rows
        self.reserve_bytes = reserve_bytes
        self.events = events
        self.trainer: Any = None
        """Set when it exists; transformers passes callbacks the model but not itself."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Run the trial. An out-of-memory error is raised as torch raises it."""
        if state.global_step or self.trainer is None or self.trainer.is_deepspeed_enabled:
            return  # DeepSpeed counts passes, and would count this one as part of the first step
        batch = largest_batch(self.trainer, self.rows, args.per_device_train_batch_size)
        with torch.random.fork_rng(enabled=True, devices=cuda_devices()):
            held = torch.empty(self.reserve_bytes, dtype=torch.uint8, device=args.device)
            forward_and_backward(self.trainer, batch)
            del held
        self.events.note(f"the largest micro-batch of {len(batch['input_ids'])} rows fits")


def largest_batch(trainer: Any, rows: Any, size: int) -> dict[str, Any]:
    """The rows with the most tokens, collated as the trainer does it."""
    lengths = row_lengths(rows)
    longest = np.argsort(-lengths.sum(axis=1), kind="stable")[:size]
    if trainer.max_tokens is not None:
        rows_in_step = size * trainer.distributed.num_processes  # any process may get the pass with the most rows
        longest = largest_group(as_lengths(lengths), trainer.max_tokens, rows_in_step, shares=trainer.shares)
    return trainer._prepare_inputs(trainer.collate_trial([trainer.train_dataset[int(index)] for index in longest]))


def forward_and_backward(trainer: Any, batch: dict[str, Any]) -> None:
    """One pass each way that leaves nothing behind: no gradient, no metric, no count."""
    counts = snapshot(trainer)
    model = trainer.model_wrapped
    model.train()
    try:
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(model, batch)
        trainer.accelerator.backward(loss)
    finally:
        model.zero_grad(set_to_none=True)
        restore(trainer, counts)


def cuda_devices() -> list[int]:
    """The GPU of this process, if there is one; for `torch.random.fork_rng`."""
    return [torch.cuda.current_device()] if torch.cuda.is_available() else []
