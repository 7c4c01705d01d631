"""What kind of value each field of a recipe takes that importers set."""

from __future__ import annotations

from dpo_recipes.share.foreign import values
from dpo_recipes.share.foreign.values import Kind

_KINDS: dict[str, Kind] = {
    **dict.fromkeys(
        [
            "training.learning_rate",
            "training.weight_decay",
            "training.max_grad_norm",
            "training.warmup_ratio",
            "training.num_epochs",
            "training.min_lr_ratio",
            "model.adapter.dropout",
            "objective.beta",
            "objective.gamma",
            "objective.cpo_alpha",
            "objective.alpha",
            "objective.label_smoothing",
            "objective.ld_alpha",
            "objective.discopop_tau",
            "objective.f_alpha_divergence_coef",
            "objective.ref_model_mixup_alpha",
            "objective.desirable_weight",
            "objective.undesirable_weight",
            "objective.center_rewards_coefficient",
            "data.eval.fraction",
            "launch.timeout_minutes",
            "training.early_stopping.min_delta",
        ],
        values.number,
    ),
    **dict.fromkeys(
        [
            "training.micro_batch_size",
            "training.gradient_accumulation_steps",
            "training.max_steps",
            "training.warmup_steps",
            "training.logging_steps",
            "training.seed",
            "training.early_stopping.patience",
            "data.max_length",
            "model.adapter.r",
            "model.adapter.alpha",
            "checkpoints.save_steps",
            "checkpoints.save_total_limit",
            "objective.ref_model_sync_steps",
            "data.limit",
            "data.eval.count",
            "data.eval.limit",
            "launch.num_processes",
            "launch.num_nodes",
        ],
        values.whole,
    ),
    **dict.fromkeys(
        [
            "training.gradient_checkpointing",
            "training.activation_offloading",
            "model.adapter.use_rslora",
            "model.adapter.use_dora",
            "model.trust_remote_code",
            "objective.use_weighting",
            "objective.sync_ref_model",
            "model.quantization.double_quant",
            "data.shuffle",
        ],
        values.flag,
    ),
    "model.adapter.modules_to_save": values.names,
    "objective.loss_weights": values.numbers,
    "chat_template_kwargs": values.mapping,
}


def kind_of(to: str) -> Kind:
    """How the value of a field is read."""
    return _KINDS.get(to, values.text)
