"""The keys of transformers' TrainingArguments, which most of these tools pass on."""

from __future__ import annotations

from dataclasses import dataclass

from dpo_recipes.recipe.foreign_names import TRAINER
from dpo_recipes.share.foreign.draft import Keys
from dpo_recipes.share.foreign.listed import Listed, listed
from dpo_recipes.share.foreign.machine import map_sharding, map_timeout
from dpo_recipes.share.foreign.progress import map_evaluation, map_logging, map_saving, map_trackers
from dpo_recipes.share.foreign.schedule import map_clipping, map_length, map_optimizer, map_scheduler, map_warmup
from dpo_recipes.share.foreign.values import flag, number


@dataclass(frozen=True)
class TrainerDefaults:
    """What a tool assumes where its file says nothing."""

    learning_rate: float
    micro_batch_size: int = 8
    accumulation: int = 1
    epochs: float = 3.0
    scheduler: str = "linear"
    warmup_ratio: float = 0.0
    optimizer: str = "adamw_torch_fused"
    weight_decay: float = 0.0
    checkpointing: bool = False
    logging_steps: int = 500
    save_steps: int | None = 500
    seed: int = 42
    trackers: tuple[str, ...] = ()


def map_trainer(keys: Keys, defaults: TrainerDefaults) -> None:
    """The section `training`, and what belongs to it in others."""
    draft = keys.draft
    keys.map_all(TRAINER)
    for to, value in {
        "training.micro_batch_size": defaults.micro_batch_size,
        "training.gradient_accumulation_steps": defaults.accumulation,
        "training.learning_rate": defaults.learning_rate,
        "training.weight_decay": defaults.weight_decay,
        "training.gradient_checkpointing": defaults.checkpointing,
        "training.seed": defaults.seed,
    }.items():
        draft.default(to, value)
    map_length(keys, "num_train_epochs", defaults.epochs)
    map_scheduler(keys, "lr_scheduler_type", defaults.scheduler)
    map_warmup(keys, defaults.warmup_ratio)
    map_optimizer(keys, "optim", defaults.optimizer)
    map_clipping(keys)
    map_logging(keys, defaults.logging_steps)
    map_evaluation(keys, default_steps=None)
    map_saving(keys, defaults.save_steps)
    map_trackers(keys, default=defaults.trackers)
    map_sharding(keys)
    map_timeout(keys)
    if keys.get("auto_find_batch_size", flag, False):
        draft.put("hardware.fit", True, keys.key("auto_find_batch_size"))
    if keys.get("use_cpu", flag, False) or keys.get("no_cuda", flag, False):
        draft.put("hardware.device", "cpu", *[keys.key(name) for name in ("use_cpu", "no_cuda") if keys.has(name)])
    _list_adam(keys)


def _list_adam(keys: Keys) -> None:
    """Adam's own numbers, which a recipe cannot set: they cost nothing if they are the usual ones."""
    for name, usual in {"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8}.items():
        value = keys.get(name, number)
        if value is not None:
            note = "it is the same here" if value == usual else f"a recipe cannot set it; it is {usual:g} here"
            keys.list(name, note, differs=value != usual)


LISTED: tuple[Listed, ...] = (
    listed(
        "a run always has a folder of its own and resumes by itself",
        "overwrite_output_dir resume_from_checkpoint ignore_data_skip save_only_model save_safetensors "
        "save_on_each_node enable_jit_checkpoint restore_callback_states_from_checkpoint add_version "
        "create_checkpoint_symlink resume_only_model do_train do_predict save_final_model "
        "try_resume_from_last_checkpoint auto_resume_from_checkpoints save_first_step logging_dir",
        is_feature=False,
    ),
    listed(
        "a run does not upload its model; no result depends on it",
        "push_to_hub hub_* push_to_hub_* push_dataset_to_hub",
    ),
    listed(
        "evaluations use `training.micro_batch_size`; their results are the same",
        "per_device_eval_batch_size eval_accumulation_steps eval_batch_size batch_eval_metrics "
        "eval_do_concat_batches eval_use_gather_object bf16_full_eval fp16_full_eval prediction_loss_only "
        "eval_delay eval_on_start include_for_metrics label_names",
        is_feature=False,
    ),
    listed(
        "rows are read before training starts, so nothing has to be loaded in the background",
        "dataloader_* dataset_num_proc dataset_processes preprocessing_num_workers preprocessing_batch_size "
        "transform_num_workers dataset_batch_size",
        is_feature=False,
    ),
    listed(
        "a matter of speed or memory; the result is the same",
        "tf32 torch_compile torch_compile_* use_liger_kernel liger_kernel_config use_liger_loss "
        "torch_empty_cache_steps gradient_checkpointing_kwargs activation_checkpointing_kwargs optim_target_modules "
        "auto_find_batch_size ddp_* fsdp_* fsdp_config accelerator_config parallelism_config low_cpu_mem_usage "
        "device_map use_cache average_tokens_across_devices skip_memory_metrics half_precision_backend "
        "full_determinism dispatch_batches split_batches local_rank world_size pad_to_multiple_of padding_free "
        "precompute_ref_log_probs precompute_ref_batch_size use_logits_to_keep use_num_logits_to_keep "
        "base_model_attribute_name force_use_ref_model model_init_kwargs ref_model_init_kwargs use_kernels "
        "max_memory offload_folder",
        is_feature=False,
    ),
    listed(
        "what is logged differs; the model does not",
        "logging_first_step logging_nan_inf_filter logging_strategy log_level log_level_replica log_on_each_node "
        "disable_tqdm include_num_input_tokens_seen include_tokens_per_second include_inputs_for_metrics debug "
        "trackio_* log_completions wandb_log_unique_prompts plot_loss include_effective_tokens_per_second "
        "include_tkps compute_accuracy log_model_summary include_performance_metrics "
        "include_alternative_mfu_metrics dep_log_level log_examples",
        is_feature=False,
    ),
    listed(
        "noise on the embeddings does not exist here, so training has one regularizer less",
        "neftune_noise_alpha noisy_embedding_alpha",
        differs=True,
    ),
    listed(
        "rows are in random order here, whatever their lengths",
        "group_by_length length_column_name train_sampling_strategy",
        differs=True,
    ),
    listed("the order of the rows follows from `training.seed`", "data_seed", differs=True, is_feature=False),
    listed("the last incomplete batch is trained on, too", "dataloader_drop_last drop_last", differs=True),
    listed("label smoothing of the cross-entropy does not exist here", "label_smoothing_factor", differs=True),
    listed(
        "settings of the optimizer besides the learning rate and the weight decay cannot be set",
        "optim_args",
        differs=True,
    ),
    listed(
        "columns are chosen by the format of the data", "remove_unused_columns dataset_text_field", is_feature=False
    ),
)
