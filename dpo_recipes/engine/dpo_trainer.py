"""Direct preference optimization with TRL's DPOTrainer, on pairs that are already tokenized."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, ClassVar

from transformers import TrainerCallback
from trl.trainer import dpo_trainer
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from dpo_recipes.data.tokenize import ANSWERS, CONTEXT, PROMPT, SUBSET_NUMBER, WEIGHT
from dpo_recipes.engine.collators import DpoCollator
from dpo_recipes.engine.context import TrainingContext
from dpo_recipes.engine.engine_trainer import EngineTrainer
from dpo_recipes.engine.live_reference import LiveReference, MoveReference
from dpo_recipes.engine.metric_counts import TrlMetricCounts
from dpo_recipes.engine.pair_weights import weigh_losses
from dpo_recipes.engine.reference import REFERENCE
from dpo_recipes.engine.trainer_args import training_arguments
from dpo_recipes.model.build import ModelBundle
from dpo_recipes.objectives.dpo import DpoParams, losses_of
from dpo_recipes.objectives.pair_metrics import SATURATED, SATURATED_MARGIN


class PretokenizedDPOTrainer(EngineTrainer, DPOTrainer):
    """TRL 1.16's DPOTrainer without its dataset preparation: the collator reads the columns of tokenized rows.

    `_prepare_dataset`, `_precompute_ref_logps`, `_set_signature_columns_if_needed`, `_compute_loss` and transformers'
    `_load_from_checkpoint` are private upstream; tests/integration/test_upstream.py fails when they move.
    """

    token_weighted_metrics: ClassVar[Mapping[str, tuple[int, ...]]] = {
        "entropy": (0, 1),
        "mean_token_accuracy": (0,),
        "logits/chosen": (0,),
        "logits/rejected": (1,),
    }
    """The metrics of TRL 1.16's DPOTrainer that are means over tokens, and the answers whose tokens these are."""
    live_reference: LiveReference | None = None
    """The moving reference of `sync_ref_model`, whose log-probabilities are computed in each step."""

    def __init__(
        self, bundle: ModelBundle, context: TrainingContext, datasets: dict[str, Any], callbacks: list[TrainerCallback]
    ) -> None:
        self.metric_counts = TrlMetricCounts(self, self.token_weighted_metrics)
        # Under FSDP, TRL would load a second model by its name; for its own cache it would hash all weights everywhere.
        with _replaced_upstream(create_model_from_path=_nothing, hash_module=_nothing):
            super().__init__(
                bundle,
                context,
                datasets,
                callbacks,
                args=dpo_config(context),
                peft_config=bundle.adapter_config,
            )

    def prepare_reference(self) -> None:
        """Add the reference log-probabilities to all pairs, or make the reference that computes them in each step."""
        self.data_collator = DpoCollator(self.data_collator)
        super().prepare_reference()
        params = self.context.recipe.objective
        assert isinstance(params, DpoParams), "the objective names this trainer"
        if self.context.objective.reference(params) == "live":
            self._make_live_reference(params)

    def _make_live_reference(self, params: DpoParams) -> None:
        self.live_reference = LiveReference(self.model)
        # TRL would otherwise compute the reference with the policy's adapter switched off.
        self.ref_model = self.live_reference
        alpha, every_steps = params.ref_model_mixup_alpha, params.ref_model_sync_steps
        note = self.context.events.note if self.context.events is not None else _nothing
        self.add_callback(MoveReference(self.live_reference, alpha, every_steps, note))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.live_reference is not None and output_dir is not None:
            self.live_reference.save(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.live_reference is not None:
            self.live_reference.load(resume_from_checkpoint)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        """The loss of a batch. An evaluation also counts the accuracy of each subset."""
        numbers = inputs.pop(SUBSET_NUMBER, None)
        loss = super().compute_loss(model, inputs, *rest, **more)
        if numbers is not None:
            self.count_subsets({SUBSET_NUMBER: numbers}, self._accuracies)
        return loss

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        return dataset  # `prepare_reference` adds them when the trainer is complete

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = [PROMPT, ANSWERS, CONTEXT, REFERENCE, WEIGHT, SUBSET_NUMBER]

    def compute_ref_log_probs(self, model: Any, inputs: Mapping[str, Any]) -> Any:
        """TRL's reference log-probabilities of a batch, in which neither a weight nor a subset has a part."""
        unused = (WEIGHT, SUBSET_NUMBER)
        return super().compute_ref_log_probs(model, {name: inputs[name] for name in inputs if name not in unused})

    def _compute_loss(self, model: Any, inputs: Mapping[str, Any], return_outputs: bool) -> Any:
        inputs = dict(inputs)
        weights = inputs.pop(WEIGHT, None)
        if self.live_reference is not None:
            # TRL would switch checkpointing off and on again in each step; in evaluation mode none takes place.
            with _replaced_upstream(disable_gradient_checkpointing=lambda *_: nullcontext()):
                logps = self.compute_ref_log_probs(self.live_reference, inputs)
            inputs["ref_chosen_logps"], inputs["ref_rejected_logps"] = logps
        compute = partial(super()._compute_loss, inputs=inputs, return_outputs=return_outputs)
        with _recorded_gathers(self.accelerator) as gathered:
            if weights is None:
                loss = compute(model)
            else:
                loss = weigh_losses(compute, model, self.loss_types, weights, inputs["completion_mask"])
        self._accuracies = gathered[_ACCURACIES]
        num_tokens = inputs["completion_mask"][:, 1:].sum(1).reshape(2, -1).T
        self.count_lengths(gathered[_MARGINS], num_tokens)
        is_saturated = (gathered[_MARGINS] > SATURATED_MARGIN).float()
        policy: Any = self.model
        mode = "train" if policy.training else "eval"
        self._metrics[mode][SATURATED.key].append(self.accelerator.gather(is_saturated).mean().item())
        return loss


def dpo_config(context: TrainingContext) -> DPOConfig:
    """TRL 1.16's DPOConfig for a recipe; every value that has another default upstream is set."""
    params = context.recipe.objective
    assert isinstance(params, DpoParams), "the objective names this trainer"
    return DPOConfig(
        **training_arguments(context),
        activation_offloading=context.recipe.training.activation_offloading,
        beta=params.beta,
        loss_type=list[str](losses_of(params)),
        loss_weights=params.loss_weights,
        label_smoothing=params.label_smoothing,
        f_divergence_type=params.f_divergence_type,
        f_alpha_divergence_coef=params.f_alpha_divergence_coef,
        ld_alpha=params.ld_alpha,
        use_weighting=params.use_weighting,
        discopop_tau=params.discopop_tau,
        max_length=None,  # pairs are cut to length when they are tokenized
        # A frozen reference meets each pair once: no second model stays in memory, and epochs and evaluations reuse the
        # numbers. Those of a moving one are computed here before TRL's loss, which finds them as if they were cached.
        precompute_ref_log_probs=True,
        precompute_ref_batch_size=context.recipe.training.micro_batch_size,
        disable_dropout=False,  # the base's is off already; see model.build
    )


_ACCURACIES, _MARGINS = -4, -3
"""The places of the accuracies and margins of a batch's pairs among the tensors that TRL 1.16 gathers in
`_compute_loss`: the last six are the rewards of both answers, accuracies, margins, and the log-probabilities of both
answers. tests/integration/test_upstream.py fails when this order changes."""


@contextmanager
def _recorded_gathers(accelerator: Any) -> Iterator[list[Any]]:
    """The tensors of this process that are passed to `accelerator.gather` meanwhile: TRL keeps only their means."""
    gathered: list[Any] = []
    replaced, gather = vars(accelerator).get("gather"), accelerator.gather

    def record(tensor: Any) -> Any:
        gathered.append(tensor)
        return gather(tensor)

    accelerator.gather = record
    try:
        yield gathered
    finally:
        if replaced is None:
            del accelerator.gather
        else:
            accelerator.gather = replaced


def _nothing(*_: Any, **__: Any) -> None:
    """Stands in for work that is not needed."""


@contextmanager
def _replaced_upstream(**stand_ins: Any) -> Iterator[None]:
    """Replace functions that TRL 1.16's dpo_trainer calls by name; tests/integration/test_upstream.py fails when one
    moves."""
    upstream: Any = dpo_trainer
    own = {name: getattr(upstream, name) for name in stand_ins}
    vars(upstream).update(stand_ins)
    try:
        yield
    finally:
        vars(upstream).update(own)
