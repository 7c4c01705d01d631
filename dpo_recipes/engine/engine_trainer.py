"""What all trainers of the engine have in common, and how one is built for a recipe's objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback

from dpo_recipes.data.tokenize import SUBSET_NUMBER
from dpo_recipes.engine.batching import MicroBatching
from dpo_recipes.engine.callbacks.checkpoint import CheckpointCallback
from dpo_recipes.engine.callbacks.progress import PassProgress
from dpo_recipes.engine.checkpoints.writer import CheckpointWriter
from dpo_recipes.engine.context import TrainingContext
from dpo_recipes.engine.fsdp import reshard, shard_policy
from dpo_recipes.engine.head import prepare_head
from dpo_recipes.engine.length_counts import LENGTH_CORRELATION, LengthCounts
from dpo_recipes.engine.prefix_sharing import check_longest_row, share_prefixes
from dpo_recipes.engine.probe import cuda_devices
from dpo_recipes.engine.reference import add_reference, release_reference_engine, try_one_row, weights_of
from dpo_recipes.engine.subset_counts import SubsetCounts
from dpo_recipes.errors import Interrupted
from dpo_recipes.evaluate.metrics import name_as_test
from dpo_recipes.model.build import ModelBundle
from dpo_recipes.objectives.base import Objective
from dpo_recipes.run_inputs import ReferenceLogps


class EngineTrainer(MicroBatching):
    """A mixin before a trainer of transformers or TRL: batches, checkpoints, evaluations and schedule of the engine.

    `_prepare_input`, `_run_epoch`, `_save_checkpoint`, `_save` and `_evaluate` are private in transformers;
    tests/integration/test_upstream.py fails when they move.
    """

    def __init__(
        self, bundle: ModelBundle, context: TrainingContext, datasets: dict[str, Any],
        callbacks: list[TrainerCallback], **upstream: Any,
    ) -> None:  # fmt: skip
        self.context = context
        self.distributed = context.distributed
        self.max_tokens = context.max_tokens
        self.locate = context.locate
        self.reference_progress = PassProgress("reference", context.events.emit if context.events else None)
        self.reference_known: dict[str, bool] = {}
        """For each split, whether the cache had its reference log-probabilities."""
        self.reference_logps: dict[str, ReferenceLogps] = {}
        """The digests and first values of its reference log-probabilities, by split."""
        self.reference_weights: str | None = None
        """A digest of the weights that the reference was computed with."""
        self.reference_computation: dict[str, Any] | None = None
        """Everything else that the reference's values depend on."""
        training = context.recipe.training
        # Each pass gathers sharded weights in all processes, so all must divide a batch into as many passes.
        most = None if self.distributed.shards_weights else training.max_tokens_per_pass
        shape = context.objective.batch_shape(context.recipe.objective)
        self.prefix_sharing = share_prefixes(bundle.policy, training.prefix_sharing, most, shape.num_answers)
        if context.events is not None:
            self.prefix_sharing.on_message = context.events.note
        self._check_longest(datasets)
        held_out = {name: rows for name, rows in datasets.items() if name != "train"}
        super().__init__(
            model=bundle.policy,
            train_dataset=datasets["train"],
            eval_dataset=held_out or None,
            processing_class=bundle.tokenizer,
            callbacks=callbacks,
            **upstream,
        )
        metric = context.objective.subset_metric
        self.subset_counts = None
        if metric is not None and context.subsets:
            self.subset_counts = SubsetCounts(metric.key, context.subsets, self.accelerator)
        is_of_answers = context.objective.rows == "pair" and context.objective.head == "causal_lm"
        self.length_counts = LengthCounts(self.accelerator) if is_of_answers else None
        self.gather_by_rows()
        self.remove_callback(PrinterCallback)
        # TRL 1.16 converts an adapter on a quantized base to bfloat16, in which updates of usual size are rounded away.
        model: Any = self.model
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        self._prepare(datasets)
        # Evaluations during training would otherwise include the test rows.
        prepared: Any = self.eval_dataset or {}
        self.eval_dataset, self.test_dataset = prepared.get("eval"), prepared.get("test")

    def _check_longest(self, datasets: dict[str, Any]) -> None:
        most = self.context.recipe.training.max_tokens_per_pass
        noun, shares = self.context.objective.row_noun, self.prefix_sharing.is_active
        check_longest_row(datasets, most, shares=shares, noun=noun, locate=self.locate)

    def _prepare(self, datasets: dict[str, Any]) -> None:
        """Compute the reference if the objective has one, verify prefix sharing, and shard the model."""
        self.prepare_reference()
        if self.distributed.shards_weights:
            try_one_row(self)
        else:
            # If the reference was cached, no batch has been computed yet. Autocast is needed because modules that are
            # trained whole have 32 bits, and the base 16.
            with self.accelerator.autocast():
                self.prefix_sharing.verify()
        release_reference_engine(self)
        self._check_longest(datasets)  # the trial may have switched sharing off
        if self.is_fsdp_enabled:
            reshard(shard_policy(self))

    def prepare_reference(self) -> None:
        """Add the log-probabilities of a frozen reference to all rows. Without one, only the digest of the weights is
        computed, which a resumed run compares."""
        if self.context.objective.reference(self.context.recipe.objective) != "frozen":
            if self.distributed.is_main:
                weights_of(self)
            return
        self.train_dataset = self._with_reference("train", self.train_dataset)
        held_out: Any = self.eval_dataset or {}
        self.eval_dataset = {name: self._with_reference(name, rows) for name, rows in held_out.items()} or None

    def _with_reference(self, name: str, rows: Any) -> Any:
        rows, self.reference_known[name], self.reference_logps[name] = add_reference(self, rows, name)
        return rows

    def collate_trial(self, rows: list[Any]) -> dict[str, Any]:
        """The batch of some training rows, for a trial of the largest micro-batch."""
        return self.data_collator(rows)

    def save_more(self, folder: Path) -> None:
        """Write what a checkpoint has beside weights and counts. Each process calls it."""

    def load_more(self, folder: Path) -> None:
        """Restore what `save_more` wrote."""

    @property
    def checkpoints(self) -> CheckpointWriter:
        """The writer of checkpoints."""
        assert self.context.writer is not None, "a trainer that is only measured writes no checkpoints"
        return self.context.writer

    @property
    def checkpoint_state(self) -> CheckpointCallback:
        """The callback that decides when a checkpoint is written."""
        assert self.context.checkpoint_state is not None, "a trainer that is only measured writes no checkpoints"
        return self.context.checkpoint_state

    def _prepare_input(self, data: Any) -> Any:
        # Under DeepSpeed, transformers 5.23 would round floating-point inputs to the model's precision. These inputs
        # are the reference's log-probabilities, sums over whole answers: bfloat16 represents -300 in steps of 2.
        return data.to(self.args.device) if isinstance(data, torch.Tensor) else super()._prepare_input(data)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Create transformers' schedule, with a warm-up in which no step has a rate of 0."""
        if self.lr_scheduler is None:
            super().create_scheduler(num_training_steps, optimizer)
            begin_above_zero(self.lr_scheduler, self.args.get_warmup_steps(num_training_steps))
        return self.lr_scheduler

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # transformers 5.23 checks only after a step whether training is finished: a run that resumes from a checkpoint
        # of its last step, within an epoch, or of one after which it was to end early, would do another step.
        if self.state.global_step < self.state.max_steps and not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # Bypasses TRL's method, which writes its own model card for each checkpoint.
        write = partial(Trainer._save_checkpoint, self, model, trial)
        state = self.checkpoint_state
        self.checkpoints.save(self, write, state.take_state(), state.take_facts())

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        # Saves only weights: a run that resumes has tokenizer and arguments from its recipe. If tokens were added, peft
        # would save both embedding matrices whole; the new rows are part of the adapter (model/adapters.py).
        model: Any = self.model
        rows_only = {"save_embedding_layers": False} if hasattr(model, "peft_config") else {}
        model.save_pretrained(output_dir, state_dict=state_dict, is_main_process=self.args.should_save, **rows_only)

    def count_subsets(self, inputs: Mapping[str, Any], values: torch.Tensor) -> None:
        """Add the values of `Objective.subset_metric`, [B], for the rows of a batch of an evaluation."""
        if self.subset_counts is not None and SUBSET_NUMBER in inputs and self.has_rows:
            self.subset_counts.add(inputs[SUBSET_NUMBER], values)

    def count_lengths(self, margins: torch.Tensor, num_tokens: torch.Tensor) -> None:
        """Add pairs of a batch of an evaluation: their margins, [B], and their answers' trained tokens, [B, 2]."""
        model: Any = self.model
        if self.length_counts is not None and self.has_rows and not model.training:
            self.length_counts.add(margins, num_tokens[:, 0] - num_tokens[:, 1])

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, for an evaluation with the metric of each subset and the correlation of margin and length."""
        model: Any = self.model
        if self.subset_counts is not None and not model.training:
            # In place, because `evaluate` returns this dictionary.
            logs.update({f"eval_{name}": value for name, value in self.subset_counts.take_means().items()})
        if self.length_counts is not None and not model.training:
            correlation = self.length_counts.take_correlation()
            if correlation is not None:
                logs[f"eval_{LENGTH_CORRELATION}"] = correlation
        super().log(logs, start_time)

    def _clear_evaluation(self) -> None:
        self.metric_counts.clear_evaluation()
        if self.subset_counts is not None:
            self.subset_counts.clear()
        if self.length_counts is not None:
            self.length_counts.clear()

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate, and restore the random state: the number of evaluations does not affect training."""
        self._clear_evaluation()  # an evaluation that ran out of memory has left its counts
        with torch.random.fork_rng(devices=cuda_devices()):
            return super().evaluate(*args, **kwargs)

    def _evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        # Called only after a step; `evaluate` also runs for the base and for an evaluation that was missed.
        try:
            return super()._evaluate(*args, **kwargs)
        except Interrupted:
            self._clear_evaluation()
            self.checkpoint_state.leave_evaluation(self.control)
            return {}

    def evaluate_test(self) -> dict[str, float]:
        """The metrics on the test rows, with names that start with `test_`."""
        held_out, self.eval_dataset = self.eval_dataset, self.test_dataset
        try:
            return name_as_test(self.evaluate(metric_key_prefix="test"))
        finally:
            self.eval_dataset = held_out


def build_trainer(
    bundle: ModelBundle, context: TrainingContext, datasets: dict[str, Any], callbacks: list[TrainerCallback]
) -> Any:
    """The trainer of the recipe's objective, with the reference of all rows computed.

    Raises `RunError` T606 (prefix sharing is on and the model does not support it), T607 (a row exceeds the token
    budget of a pass) and T608 (the reference is NaN or infinite).
    """
    prepare_head(bundle.device)
    return trainer_class(context.objective)(bundle, context, datasets, callbacks)


def trainer_class(objective: Objective) -> type[Any]:
    """The class of the trainer that an objective names."""
    module, _, attribute = objective.trainer.partition(":")
    return getattr(import_module(module), attribute)


def is_trained_by_trl(objective: Objective) -> bool:
    """Whether the trainer of an objective is one of TRL's, and not ours, which only uses parts of TRL."""
    return any(base.__module__.partition(".")[0] == "trl" for base in trainer_class(objective).__mro__)


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
