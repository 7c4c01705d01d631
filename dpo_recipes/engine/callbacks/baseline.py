"""Measures the untouched base."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dpo_recipes.engine.checkpoints.choice import BaseResults
from dpo_recipes.engine.distributed import DistributedContext, check_wrapped
from dpo_recipes.evaluate.metrics import Values, evaluate_base
from dpo_recipes.evaluate.samples import Samples
from dpo_recipes.events import EventLog
from dpo_recipes.model.build import ModelBundle


def answer_as_base(samples: Samples, model: Any, bundle: ModelBundle, events: EventLog) -> None:
    """Let the untouched base answer the sample prompts, if there are any."""
    if not samples.rows:
        return
    events.stage("base", f"answering {len(samples.rows)} prompts")
    samples.ask("base", model, bundle)


class BaselineCallback(TrainerCallback):
    """Checks the class of the wrapped model, and measures the untouched base on the held-out rows.

    A single process does that at once. Several processes must wait until training starts: accelerate 1.15 marks a model
    that was evaluated as prepared (`Accelerator.prepare_model`) and then trains it without DDP, each process alone.
    DeepSpeed and FSDP can evaluate only the model that training has wrapped. If weights are sharded, the base also
    answers its prompts then: before that, its weights are in CPU memory and not on the device.
    """

    def __init__(
        self,
        trainer: Any,
        distributed: DistributedContext,
        events: EventLog,
        samples: Samples,
        bundle: ModelBundle,
        *,
        evaluates: bool,
        known: BaseResults | None = None,
    ) -> None:
        self.trainer = trainer
        self.distributed = distributed
        self.events = events
        self.samples = samples
        self.bundle = bundle
        self.evaluates = evaluates and known is None
        self.metrics: Values = known.metrics if known else {}
        """Of the base."""
        self.waits = distributed.num_processes > 1 or distributed.strategy != "ddp"
        if not self.waits:
            self._evaluate()
        trainer.callback_handler.callbacks.insert(0, self)  # before any other callback computes with the model

    @property
    def results(self) -> BaseResults:
        """The measurements that a resumed run need not repeat."""
        return BaseResults(self.metrics, self.samples.answers.get("base", []))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Raises `RunError` T620 and T621 if processes or model are not as requested."""
        trainer, distributed = self.trainer, self.distributed
        check_wrapped(
            trainer.model_wrapped, distributed.strategy, distributed.num_processes, trainer.accelerator.num_processes
        )
        if state.global_step:
            return
        if distributed.shards_weights:
            answer_as_base(self.samples, trainer.model, self.bundle, self.events)
        if self.waits:
            self._evaluate()

    def _evaluate(self) -> None:
        if self.evaluates:
            self.events.stage("base", "evaluating the untouched base")
            self.metrics = evaluate_base(self.trainer, self.trainer.context.objective.metrics)
