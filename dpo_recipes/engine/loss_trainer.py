"""The trainer of every objective that states its loss as a function of the answers' log-probabilities or values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from trl.models.activation_offloading import get_act_offloading_ctx_manager
from trl.trainer.utils import add_fused_lm_head

from dpo_recipes.data.tokenize import ANSWERS, CONTEXT, PROMPT
from dpo_recipes.engine.backbone import in_evaluation_mode
from dpo_recipes.engine.collators import OF_ROLLOUT, ROW_COLUMNS, AnswerCollator
from dpo_recipes.engine.context import TrainingContext
from dpo_recipes.engine.engine_trainer import EngineTrainer
from dpo_recipes.engine.metric_counts import RowMetricCounts
from dpo_recipes.engine.micro_batch import MICRO_BATCH, MICRO_BATCHES, MicroBatch
from dpo_recipes.engine.reference import REFERENCE
from dpo_recipes.engine.trainer_args import training_arguments
from dpo_recipes.model.adapters import without_adapter
from dpo_recipes.model.build import ModelBundle
from dpo_recipes.model.heads import reads_token_types
from dpo_recipes.objectives.base import Objective, ObjectiveParams
from dpo_recipes.objectives.pair_metrics import MARGIN
from dpo_recipes.objectives.scores import Loss, Scores, TokenScores

_NOT_OF_THE_MODEL = {"completion_mask", *ROW_COLUMNS, *OF_ROLLOUT}


class ObjectiveTrainer(Trainer):
    """Computes `Scores` with a model, and the loss and metrics that an objective derives from them.

    The model's head is TRL 1.16's fused one: it returns the log-probabilities of the labelled tokens and never holds
    the logits of a whole batch.
    """

    ref_model = None  # the reference is the untouched base, whose values are computed before training
    ld_alpha = None  # sums of log-probabilities are not desensitized to the length
    _precompute_engine: Any = None
    model: Any
    args: Any
    has_rows: Any
    distributed: Any
    count_subsets: Callable[[Mapping[str, Any], torch.Tensor], None]
    count_lengths: Callable[[torch.Tensor, torch.Tensor], None]

    def __init__(
        self,
        *,
        model: Any,
        args: TrainingArguments,
        objective: Objective,
        params: ObjectiveParams,
        peft_config: PeftConfig | None,
        activation_offloading: bool,
        processing_class: Any,
        **upstream: Any,
    ) -> None:
        set_seed(args.seed)  # an adapter is initialized at random
        self.objective, self.params = objective, params
        self.num_answers = objective.batch_shape(params).num_answers
        pad = processing_class.pad_token_id
        pad = processing_class.eos_token_id if pad is None else pad
        model.config.get_text_config().pad_token_id = pad
        if objective.head == "causal_lm":
            model.generation_config.pad_token_id = pad
        model = with_adapter(model, peft_config, args)
        collator = AnswerCollator(pad, has_token_types=reads_token_types(model.config, processing_class))
        super().__init__(model=model, args=args, data_collator=collator, processing_class=processing_class, **upstream)
        self.loss_mean = objective.mean_over(params)
        self.loss_is_scaled_for_ga = self.loss_mean == "tokens"
        names = [*(metric.key for metric in objective.metrics), *objective.further_metrics(params)]
        self.metric_counts = RowMetricCounts(names, self.accelerator)
        base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        if objective.head == "causal_lm":
            add_fused_lm_head(base, temperature=objective.temperature(params), outputs=objective.head_outputs(params))
        config = model.config.get_text_config()
        # The coefficient of the balancing loss over the experts, as TRL's trainers add it; 0 for a model without it.
        self.router_coefficient: float = (
            getattr(config, "router_aux_loss_coef", 0.0) if hasattr(config, "output_router_logits") else 0.0
        )
        self.offloading: Any = get_act_offloading_ctx_manager(model=model) if activation_offloading else nullcontext()

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            self._signature_columns = [PROMPT, ANSWERS, CONTEXT, *ROW_COLUMNS]

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """transformers' step, with activations offloaded if the recipe says so."""
        with self.offloading:
            return super().training_step(*args, **kwargs)

    def compute_loss(
        self, model: Any, inputs: Mapping[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of a micro-batch. Adds its metrics to the counts."""
        scores, router_loss = self.scores(model, inputs)
        loss = self.objective.loss(self.params, scores)
        self._count(loss, scores, inputs)
        if self.loss_mean == "rows":
            value = loss.per_row.mean()
        elif num_items_in_batch is None:  # an evaluation, or a trial outside the training loop
            value = loss.per_row.sum() / num_trained(scores).clamp(min=1)
        else:
            # Gradients are averaged over processes, and the number of items is that of all processes.
            value = loss.per_row.sum() * self.accelerator.num_processes / num_items_in_batch
        if router_loss is not None:
            value = value + self.router_coefficient * router_loss
        return (value, {}) if return_outputs else value

    def scores(self, model: Any, inputs: Mapping[str, Any]) -> tuple[Scores, torch.Tensor | None]:
        """What the model computes of a micro-batch, and the balancing loss over its experts, if it has any."""
        of_model = {name: value for name, value in inputs.items() if name not in _NOT_OF_THE_MODEL}
        of_model["use_cache"] = False
        scores = Scores(
            reference_logps=inputs.get(REFERENCE),
            labels=inputs.get("label"),
            margins=inputs.get("margin"),
            weights=inputs.get("weight"),
        )
        if self.objective.head == "score":
            scores.values = self._by_answer(model(**of_model).logits.float().squeeze(-1))
            return scores, None
        if self.router_coefficient:
            of_model["output_router_logits"] = True
        trained = scored = inputs["completion_mask"]
        scores_prompt = self.objective.batch_shape(self.params).scores_prompt
        if scores_prompt:
            # The first sequence of each row stands for its prompt: it is the same for all answers.
            with_prompt = torch.arange(len(trained), device=trained.device) < len(trained) // self.num_answers
            scored = torch.where(with_prompt[:, None], inputs["attention_mask"], trained)
        labels = inputs["input_ids"].masked_fill(scored == 0, -100)
        outputs = model(**of_model, labels=labels, fused_lm_head=True)
        trained = trained[:, 1:]
        logps = self._of_tokens(outputs.log_probs, trained)
        scores.num_tokens = self._by_answer(trained.sum(1))
        if scores_prompt:
            prompt = scored[:, 1:] - trained
            scores.prompt_logps = self._by_answer((logps * prompt).sum(1))[:, 0]
            scores.num_prompt_tokens = self._by_answer(prompt.sum(1))[:, 0]
            logps = logps * trained
        scores.logps = self._by_answer(logps.sum(1))
        if self.objective.uses_tokens(self.params):
            scores.of_tokens = TokenScores(self.by_token(logps), self.by_token(trained))
        if outputs.entropy is not None:
            scores.entropies = self._by_answer((self._of_tokens(outputs.entropy, trained) * trained).sum(1))
        if outputs.is_top1 is not None:
            scores.num_correct = self._by_answer((self._of_tokens(outputs.is_top1, trained) * trained).sum(1))
        return scores, outputs.aux_loss

    def _of_tokens(self, values: torch.Tensor, trained: torch.Tensor) -> torch.Tensor:
        """The values of real tokens: a learned prompt of peft comes before them."""
        return values[:, -trained.shape[1] :]

    def _by_answer(self, values: torch.Tensor) -> torch.Tensor:
        """[K·B] → [B, K] in 32 bits."""
        return values.float().reshape(self.num_answers, -1).T

    def by_token(self, values: torch.Tensor) -> torch.Tensor:
        """[K·B, T] → [B, K, T] in 32 bits."""
        return values.float().reshape(self.num_answers, -1, values.shape[1]).transpose(0, 1)

    def _count(self, loss: Loss, scores: Scores, inputs: Mapping[str, Any]) -> None:
        mode = "train" if self.model.training else "eval"
        values: dict[str, tuple[torch.Tensor, torch.Tensor | int]] = {}
        if self.has_rows:
            for name, of_rows in loss.metrics.items():
                sums, counts = of_rows if isinstance(of_rows, tuple) else (of_rows, None)
                values[name] = sums.detach().sum(), len(sums) if counts is None else counts.sum()
            if self.loss_mean == "tokens":
                values["loss"] = loss.per_row.detach().sum(), num_trained(scores)
        self.metric_counts.add(mode, values, int(inputs["attention_mask"].sum()) if self.has_rows else 0)
        margins = loss.metrics.get(MARGIN.key)
        if isinstance(margins, torch.Tensor) and scores.num_tokens is not None and scores.num_tokens.shape[1] == 2:
            self.count_lengths(margins, scores.num_tokens)
        metric = self.objective.subset_metric
        if mode == "eval" and metric is not None:
            of_rows = loss.metrics[metric.key]
            assert not isinstance(of_rows, tuple), f"`{metric.key}` is a share of rows, not of tokens"
            self.count_subsets(inputs, of_rows)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """The trained tokens of an optimizer step in all processes, for a loss that is their mean."""
        if self.loss_mean == "rows":
            return None
        batches = [part for batch in batch_samples for part in batch.get(MICRO_BATCHES, [batch])]
        own = sum(map(self._num_own_tokens, batches))
        return self.accelerator.reduce(torch.tensor(own, device=device, dtype=torch.float32), reduction="sum")

    def _num_own_tokens(self, inputs: Mapping[str, Any]) -> int:
        """The trained tokens of a micro-batch of this process; 0 for one that does not count."""
        is_counted = MICRO_BATCH not in inputs or inputs[MICRO_BATCH].has_rows(self.distributed.rank)
        return int(inputs["completion_mask"][:, 1:].sum()) if is_counted else 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log with the metrics since the last row."""
        mode = "train" if self.model.training else "eval"
        means = self.metric_counts.take_means(mode)
        if mode == "train":
            means.pop("loss", None)  # transformers' own is the mean over optimizer steps
        # In place, because `evaluate` returns this dictionary.
        logs.update({f"eval_{name}": value for name, value in means.items()} if mode == "eval" else means)
        super().log(logs, start_time)

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor, None, None]:
        """The loss of a batch of an evaluation. Metrics are counted by `compute_loss`."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, inputs).detach(), None, None

    def compute_ref_log_probs(self, model: Any, inputs: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
        """K tensors [B]: the reference's log-probabilities of a batch, or the values of a model that returns scores,
        with the policy's adapter switched off."""
        scores = self.reference_scores(model, inputs)
        of_answers = scores.logps if scores.values is None else scores.values
        assert of_answers is not None
        return tuple(of_answers.T)

    def reference_scores(self, model: Any, inputs: Mapping[str, Any]) -> Scores:
        """What a model computes of a batch with the policy's adapter switched off, without gradients."""
        adapter: Any = nullcontext()
        policy: Any = self.accelerator.unwrap_model(self.model)
        if isinstance(policy, PeftModel):
            adapter = without_adapter(policy)
        # In evaluation mode there is neither dropout nor checkpointing.
        with torch.no_grad(), in_evaluation_mode(model), adapter, self.accelerator.autocast():
            return self.scores(model, inputs)[0]


def num_trained(scores: Scores) -> torch.Tensor:
    """The trained tokens of a micro-batch."""
    assert scores.num_tokens is not None
    return scores.num_tokens.sum()


def with_adapter(model: Any, peft_config: PeftConfig | None, args: Any) -> Any:
    """The model with a new adapter, or the given one with a frozen copy of its initial state, as in TRL 1.16.

    The copy is the reference, and what an adapter whose initialization changes the base is saved relative to."""
    if peft_config is not None:
        is_quantized = getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False)
        plugin = args.deepspeed_plugin
        # ZeRO-3 gathers parameters of one type only (https://github.com/huggingface/trl/issues/6089).
        in_one_type = plugin is not None and plugin.zero_stage == 3 and not is_quantized
        model = get_peft_model(model, peft_config, autocast_adapter_dtype=not in_one_type)
    elif isinstance(model, PeftModel):
        model.add_adapter("ref", model.peft_config["default"])
        for name, parameter in model.named_parameters():
            if ".default." in name:
                model.get_parameter(name.replace(".default.", ".ref.")).data.copy_(parameter.data)
    if isinstance(model, PeftModel) and args.gradient_checkpointing:
        # transformers does not enable it for adapters (https://github.com/huggingface/transformers/issues/42489).
        model.enable_input_require_grads()
    return model


class LossTrainer(EngineTrainer, ObjectiveTrainer):
    """The engine's trainer of an objective: batches, sharing and checkpoints of the engine, loss of the objective."""

    def __init__(
        self, bundle: ModelBundle, context: TrainingContext, datasets: dict[str, Any], callbacks: list[TrainerCallback]
    ) -> None:
        kind = context.objective.reference(context.recipe.objective)
        assert kind != "live", "a reference that changes during training needs a trainer of its own"
        super().__init__(
            bundle,
            context,
            datasets,
            callbacks,
            args=TrainingArguments(**training_arguments(context)),
            objective=context.objective,
            params=context.recipe.objective,
            peft_config=bundle.adapter_config,
            activation_offloading=context.recipe.training.activation_offloading,
        )

    def loss_weight(self, micro_batch: MicroBatch) -> float:
        """1 for a sum over tokens, which has been divided by the tokens of the step already."""
        if self.loss_mean == "tokens":
            return float(micro_batch.has_rows(self.distributed.rank))
        return super().loss_weight(micro_batch)
