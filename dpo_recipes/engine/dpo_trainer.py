"""Direct preference optimization with TRL's DPOTrainer, on pairs that are already tokenized."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from transformers import TrainerCallback
from trl.trainer import dpo_trainer
from trl.trainer.dpo_trainer import DPOTrainer

from dpo_recipes.data.tokenize import CONTEXT_COLUMNS
from dpo_recipes.engine.answer_context import ContextCollator
from dpo_recipes.engine.callbacks.checkpoint import CheckpointCallback
from dpo_recipes.engine.callbacks.progress import ReferenceProgress
from dpo_recipes.engine.checkpoints.writer import CheckpointWriter
from dpo_recipes.engine.distributed import DistributedContext
from dpo_recipes.engine.fsdp import reshard, shard_policy
from dpo_recipes.engine.head import prepare_head
from dpo_recipes.engine.pair_names import Locate
from dpo_recipes.engine.prefix_sharing import PrefixSharing, check_longest_pair, share_prefixes
from dpo_recipes.engine.probe import cuda_devices
from dpo_recipes.engine.reference import add_reference, try_one_pair
from dpo_recipes.engine.token_batches import TokenBatches
from dpo_recipes.engine.trainer_args import RunArguments, dpo_config
from dpo_recipes.engine.warm_up import begin_above_zero
from dpo_recipes.errors import Interrupted
from dpo_recipes.evaluate.metrics import name_as_test
from dpo_recipes.launch.batch import max_tokens
from dpo_recipes.model.build import ModelBundle
from dpo_recipes.recipe.schema import Recipe


class PretokenizedDPOTrainer(TokenBatches, DPOTrainer):
    """TRL 1.16's DPOTrainer without its dataset preparation: the columns are prompt_ids, chosen_ids, rejected_ids.

    `_prepare_dataset`, `_precompute_ref_logps`, `_set_signature_columns_if_needed`, `_prepare_input`, `_run_epoch` and
    `_evaluate` are private upstream; tests/integration/test_upstream.py fails when they move.
    """

    test_dataset: Any = None
    """Pairs that are evaluated only before and after training; they include reference log-probabilities."""
    reference_known: dict[str, bool]
    """For each split, whether the cache had its reference log-probabilities."""
    prefix_sharing: PrefixSharing
    """The prefix sharing on the model; the trainer itself does not use it."""
    checkpoints: CheckpointWriter
    checkpoint_state: CheckpointCallback
    """Set by `engine.train` before training starts."""
    locate: Locate | None = None
    """Returns the location of a pair's row in its source."""
    reference_weights: str | None = None
    """A digest of the weights that the reference was computed with."""
    reference_computation: dict[str, Any] | None = None
    """Everything else that the reference's values depend on."""

    def __init__(
        self, *args: Any, distributed: DistributedContext, reference_progress: ReferenceProgress, **kwargs: Any
    ) -> None:
        self.distributed = distributed
        self.reference_progress = reference_progress
        self.reference_known = {}
        with _no_reference_upstream():
            super().__init__(*args, **kwargs)
        self.data_collator = ContextCollator(self.data_collator)
        self.gather_by_rows()

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        return dataset  # `compute_reference` adds them when the trainer is complete

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if CONTEXT_COLUMNS[0] not in self._signature_columns:
            self._signature_columns = [*self._signature_columns, *CONTEXT_COLUMNS]

    def compute_reference(self) -> None:
        """Add the reference log-probabilities to all pairs."""
        self.train_dataset = self._with_reference("train", self.train_dataset)
        held_out: Any = self.eval_dataset or {}
        self.eval_dataset = {name: self._with_reference(name, pairs) for name, pairs in held_out.items()} or None

    def _with_reference(self, name: str, pairs: Any) -> Any:
        pairs, self.reference_known[name] = add_reference(self, pairs, name)
        return pairs

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
        # of its last step, within an epoch, would do another step.
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # Bypasses TRL's method, which writes its own model card for each checkpoint.
        write = partial(super(DPOTrainer, self)._save_checkpoint, model, trial)
        state = self.checkpoint_state
        self.checkpoints.save(self, write, state.take_state(), state.take_facts())

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        # Saves only weights: a run that resumes has tokenizer and arguments from its recipe. If tokens were added, peft
        # would save both embedding matrices whole; the new rows are part of the adapter (model/adapters.py).
        model: Any = self.model
        rows_only = {"save_embedding_layers": False} if hasattr(model, "peft_config") else {}
        model.save_pretrained(output_dir, state_dict=state_dict, is_main_process=self.args.should_save, **rows_only)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate as TRL does, and restore the random state: the number of evaluations does not affect training."""
        with torch.random.fork_rng(devices=cuda_devices()):
            return super().evaluate(*args, **kwargs)

    def _evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        # Called only after a step; `evaluate` also runs for the base and for an evaluation that was missed.
        try:
            return super()._evaluate(*args, **kwargs)
        except Interrupted:
            self._metrics["eval"].clear()
            self.checkpoint_state.leave_evaluation(self.control)
            return {}

    def evaluate_test(self) -> dict[str, float]:
        """The metrics on the test pairs, with names that start with `test_`."""
        held_out, self.eval_dataset = self.eval_dataset, self.test_dataset
        try:
            return name_as_test(self.evaluate(metric_key_prefix="test"))
        finally:
            self.eval_dataset = held_out


@contextmanager
def _no_reference_upstream() -> Iterator[None]:
    """Prevent TRL 1.16's constructor from work that is not needed.

    Under FSDP it would load a second model by its name, and hash all weights in all processes for its own cache.
    """
    upstream: Any = dpo_trainer
    own = upstream.create_model_from_path, upstream.hash_module
    upstream.create_model_from_path = upstream.hash_module = lambda *args, **kwargs: None
    try:
        yield
    finally:
        upstream.create_model_from_path, upstream.hash_module = own


def build_trainer(
    recipe: Recipe, bundle: ModelBundle, run: RunArguments, datasets: dict[str, Any], callbacks: list[TrainerCallback]
) -> PretokenizedDPOTrainer:
    """Create a trainer, and compute the reference log-probabilities of all pairs.

    Raises `RunError` T606 (prefix sharing is on and the model does not support it), T607 (a pair exceeds the token
    budget of a pass) and T608 (the reference is NaN or infinite).
    """
    training = recipe.training
    prepare_head(bundle.device)
    # Each pass gathers sharded weights in all processes, so all must divide a batch into the same number of passes.
    is_sharded = run.distributed.shards_weights
    most = None if is_sharded else training.max_tokens_per_pass
    sharing = share_prefixes(bundle.policy, training.prefix_sharing, most)
    check_longest = partial(check_longest_pair, datasets, training.max_tokens_per_pass, locate=run.locate)
    check_longest(shares=sharing.is_active)
    if run.events is not None:
        sharing.on_message = run.events.note
    held_out = {name: pairs for name, pairs in datasets.items() if name != "train"}
    trainer = PretokenizedDPOTrainer(
        model=bundle.policy,
        args=dpo_config(recipe, run),
        train_dataset=datasets["train"],
        eval_dataset=held_out or None,
        processing_class=bundle.tokenizer,
        peft_config=bundle.adapter_config,
        callbacks=callbacks,
        distributed=run.distributed,
        reference_progress=ReferenceProgress(run.events),
    )
    trainer.prefix_sharing, trainer.locate = sharing, run.locate
    trainer.max_tokens = max_tokens(recipe)
    # TRL 1.16 converts an adapter on a quantized base to bfloat16, in which updates of usual size are rounded away.
    model: Any = trainer.model
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    trainer.compute_reference()
    if is_sharded:
        try_one_pair(trainer)
    else:
        # If the reference was cached, no batch has been computed yet. Autocast is needed because modules that are
        # trained whole have 32 bits, and the base 16.
        with trainer.accelerator.autocast():
            sharing.verify()
    check_longest(shares=sharing.is_active)  # the trial may have switched it off
    if trainer.is_fsdp_enabled:
        reshard(shard_policy(trainer))
    # TRL would evaluate on all of them during training.
    with_reference: Any = trainer.eval_dataset or {}
    trainer.eval_dataset, trainer.test_dataset = with_reference.get("eval"), with_reference.get("test")
    return trainer
