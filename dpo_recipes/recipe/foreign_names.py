"""Field names of other tools, with the field of a recipe that has the same meaning.

`dpo-recipe import` maps the names of a table, whose values need no conversion; the importers in `share/foreign` convert
the others. Hints about unknown keys use all of them.
"""

TRAINER = {
    "learning_rate": "training.learning_rate",
    "per_device_train_batch_size": "training.micro_batch_size",
    "gradient_accumulation_steps": "training.gradient_accumulation_steps",
    "weight_decay": "training.weight_decay",
    "gradient_checkpointing": "training.gradient_checkpointing",
    "activation_checkpointing": "training.gradient_checkpointing",
    "activation_offloading": "training.activation_offloading",
    "seed": "training.seed",
    "output_dir": "output_dir",
    "run_name": "tracking.run_name",
    "project": "tracking.project",
}
"""Arguments of transformers' TrainingArguments, which TRL, the alignment handbook, LLaMA-Factory and ms-swift share."""

TRL_MODEL = {
    "model_name_or_path": "model.path",
    "model_revision": "model.revision",
    "trust_remote_code": "model.trust_remote_code",
    "use_rslora": "model.adapter.use_rslora",
    "use_dora": "model.adapter.use_dora",
}
"""Arguments of TRL's ModelConfig."""

TRL_DPO = {
    "beta": "objective.beta",
    "ld_alpha": "objective.ld_alpha",
    "use_weighting": "objective.use_weighting",
    "f_divergence_type": "objective.f_divergence_type",
    "f_alpha_divergence_coef": "objective.f_alpha_divergence_coef",
    "sync_ref_model": "objective.sync_ref_model",
    "ref_model_mixup_alpha": "objective.ref_model_mixup_alpha",
    "ref_model_sync_steps": "objective.ref_model_sync_steps",
    "discopop_tau": "objective.discopop_tau",
}
"""Arguments of TRL's DPOConfig."""

AXOLOTL = {
    "base_model": "model.path",
    "revision_of_model": "model.revision",
    "trust_remote_code": "model.trust_remote_code",
    "sequence_len": "data.max_length",
    "micro_batch_size": "training.micro_batch_size",
    "learning_rate": "training.learning_rate",
    "weight_decay": "training.weight_decay",
    "gradient_checkpointing": "training.gradient_checkpointing",
    "activation_offloading": "training.activation_offloading",
    "seed": "training.seed",
    "output_dir": "output_dir",
    "peft_use_rslora": "model.adapter.use_rslora",
    "peft_use_dora": "model.adapter.use_dora",
    "lora_r": "model.adapter.r",
    "lora_alpha": "model.adapter.alpha",
    "lora_dropout": "model.adapter.dropout",
    "lora_modules_to_save": "model.adapter.modules_to_save",
    "chat_template_kwargs": "chat_template_kwargs",
    "early_stopping_patience": "training.early_stopping.patience",
}
"""Keys of Axolotl's configurations."""

LLAMA_FACTORY = {
    "model_name_or_path": "model.path",
    "model_revision": "model.revision",
    "trust_remote_code": "model.trust_remote_code",
    "cutoff_len": "data.max_length",
    "use_rslora": "model.adapter.use_rslora",
    "use_dora": "model.adapter.use_dora",
    "ld_alpha": "objective.ld_alpha",
    "early_stopping_steps": "training.early_stopping.patience",
}
"""Arguments of LLaMA-Factory that are not transformers' own."""

OUMI = {
    "model_name": "model.path",
    "model_revision": "model.revision",
    "trust_remote_code": "model.trust_remote_code",
    "lora_r": "model.adapter.r",
    "lora_alpha": "model.adapter.alpha",
    "lora_dropout": "model.adapter.dropout",
    "lora_modules_to_save": "model.adapter.modules_to_save",
    "per_device_train_batch_size": "training.micro_batch_size",
    "gradient_accumulation_steps": "training.gradient_accumulation_steps",
    "learning_rate": "training.learning_rate",
    "weight_decay": "training.weight_decay",
    "enable_gradient_checkpointing": "training.gradient_checkpointing",
    "seed": "training.seed",
    "output_dir": "output_dir",
    "run_name": "tracking.run_name",
}
"""Keys of oumi's sections `model`, `peft` and `training`."""

MS_SWIFT = {
    "model_revision": "model.revision",
    "lora_rank": "model.adapter.r",
    "lora_alpha": "model.adapter.alpha",
    "lora_dropout": "model.adapter.dropout",
    "modules_to_save": "model.adapter.modules_to_save",
    "use_rslora": "model.adapter.use_rslora",
    "use_dora": "model.adapter.use_dora",
    "early_stop_interval": "training.early_stopping.patience",
}
"""Arguments of ms-swift that are not transformers' own."""

_CONVERTED = {
    # Axolotl
    "base_model_config": "model.path",
    "datasets": "data.train",
    "val_set_size": "data.eval.fraction",
    "lora_target_modules": "model.adapter.target_modules",
    "lora_target_linear": "model.adapter.target_modules",
    "rl": "objective.kind",
    "rl_beta": "objective.beta",
    "dpo_beta": "objective.beta",
    "num_epochs": "training.num_epochs",
    "wandb_project": "tracking.project",
    "wandb_name": "tracking.run_name",
    "wandb_run_name": "tracking.run_name",
    "wandb_run_group": "tracking.group",
    "use_wandb": "tracking.report_to",
    "use_tensorboard": "tracking.report_to",
    "use_mlflow": "tracking.report_to",
    "mlflow_experiment_name": "tracking.project",
    "trackio_project_name": "tracking.project",
    "trackio_run_name": "tracking.run_name",
    "attn_implementation": "model.attn_implementation",
    "type": "data.train[].format",
    "roles_to_train": "data.train_on_turns",
    "train_on_inputs": "data.train_on_turns",
    "mask_history": "data.train_on_turns",
    # TRL and transformers
    "dataset_name": "data.train[].path",
    "dataset_config": "data.train[].name",
    "dataset_train_split": "data.train[].split",
    "torch_dtype": "model.dtype",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "use_peft": "model.adapter",
    "peft_config": "model.adapter",
    "per_device_eval_batch_size": "training.micro_batch_size",
    "batch_size": "training.micro_batch_size",
    "num_train_epochs": "training.num_epochs",
    "epochs": "training.num_epochs",
    "lr": "training.learning_rate",
    "lr_scheduler_type": "training.lr_scheduler",
    "optim": "training.optimizer",
    "early_stopping_threshold": "training.early_stopping.min_delta",
    "max_prompt_length": "data.max_length",
    "truncation_mode": "data.overlong",
    "assistant_only_loss": "data.train_on_turns",
    "report_to": "tracking.report_to",
    # LLaMA-Factory
    "stage": "objective.kind",
    "finetuning_type": "model.adapter",
    "template": "chat_template",
    "dataset": "data.train",
    "rank": "model.adapter.r",
    "lora_target": "model.adapter.target_modules",
    "pref_beta": "objective.beta",
    "pref_loss": "objective.loss_type",
    "val_size": "data.eval.fraction",
    "max_samples": "data.train[].limit",
    # ms-swift
    "rlhf_type": "objective.kind",
    "tuner_type": "model.adapter",
    "split_dataset_ratio": "data.eval.fraction",
    "truncation_strategy": "data.overlong",
}
"""Names whose values an importer converts."""

FOREIGN_NAMES = {**MS_SWIFT, **OUMI, **LLAMA_FACTORY, **AXOLOTL, **TRL_DPO, **TRL_MODEL, **TRAINER, **_CONVERTED}

FOREIGN_KINDS = {
    "ppo": (
        "TRL 1.16 has no PPOTrainer any more; RLOO optimizes the same reward with PPO's clipped ratio and needs no "
        "value head, because the other answers to a prompt are the baseline",
        "write `kind: rloo`; docs/rl.md maps PPO's settings (init_kl_coef, cliprange, ppo_epochs) to those of rloo",
    ),
}
"""Objectives of other programs that do not exist here: why, and a way out."""
