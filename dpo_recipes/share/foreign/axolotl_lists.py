"""Axolotl's keys that no field of a recipe has."""

from __future__ import annotations

from dpo_recipes.share.foreign import trainer, trl_common
from dpo_recipes.share.foreign.environment import LISTED as ENVIRONMENT_LISTED
from dpo_recipes.share.foreign.listed import Listed, listed

_PLUGINS = {
    "LigerPlugin": ("its kernels save time and memory; the result is the same", False),
    "CutCrossEntropyPlugin": ("it saves memory, as the fused head here does; the result is the same", False),
    "KernelsPlugin": ("its kernels save time; the result is the same", False),
    "SwanLabPlugin": ("SwanLab is a tracker here: `tracking.report_to: [swanlab]`", False),
    "LMEvalPlugin": ("benchmarks are not run after training", False),
    "SpectrumPlugin": ("it trains only some layers; here every target is trained", True),
    "GrokfastPlugin": ("it filters gradients, which does not exist here", True),
    "KDPlugin": ("distillation does not exist here", True),
    "LLMCompressorPlugin": ("sparse training does not exist here", True),
    "DenseMixerPlugin": ("the router of a mixture of experts is trained as usual", True),
    "DiffusionPlugin": ("diffusion models cannot be trained here", True),
    "MoRAPlugin": ("MoRA does not exist here; LoRA instead", True),
}


def plugin_cost(name: str) -> tuple[str, bool]:
    """What it costs not to have a plugin, and whether the result may differ."""
    unknown = ("it is not known here, and its code is not run", True)
    return _PLUGINS.get(name.rpartition(".")[2], unknown)


LISTED: tuple[Listed, ...] = (
    *trl_common.LISTED,
    *trainer.LISTED,
    *ENVIRONMENT_LISTED,
    listed("code in a dataset's repository is never run", "datasets.trust_remote_code test_datasets.trust_remote_code"),
    listed(
        "classes follow from the model's own configuration",
        "model_type tokenizer_type processor_type type_of_model is_*_derived_model tokenizer_use_fast "
        "tokenizer_legacy cls_model_config num_labels tokenizer_save_jinja_files processor_kwargs",
        is_feature=False,
    ),
    listed(
        "the tokenizer of the base is used",
        "tokenizer_config tokenizer_use_mistral_common added_tokens_overrides resize_token_embeddings_to_32x "
        "mean_resizing_embeddings shrink_embeddings",
        differs=True,
    ),
    listed("rows are not padded here, so this token is not needed", "special_tokens.pad_token", is_feature=False),
    listed(
        "special tokens are those of the tokenizer and the template; `model.add_special_tokens` adds missing ones",
        "special_tokens.* special_tokens tokens eot_tokens fix_untrained_tokens",
        differs=True,
    ),
    listed(
        "values of the model's configuration cannot be changed",
        "overrides_of_model_config overrides_of_model_kwargs rope_scaling scaling_softmax*",
        differs=True,
    ),
    listed(
        "prepared rows are cached by their content",
        "dataset_prepared_path dataset_keep_in_memory skip_prepare_dataset num_dataset_shards_to_save dataset_shard_* "
        "shuffle_before_merging_datasets is_preprocess preprocess_iterable preprocess_shards",
        is_feature=False,
    ),
    listed("rows are shuffled in each epoch", "shuffle_merged_datasets curriculum_sampling", is_feature=False),
    listed("only a part of the rows: use `data.train[].limit`", "shards shards_idx", differs=True),
    listed("this variant of the loss or the attention does not exist here", "dpo_norm_loss s2_attention", differs=True),
    listed("a shorter row is kept here", "min_sample_len", differs=True),
    listed(
        "which tokens are trained on follows from `data.train_on_turns`",
        "roles_to_train train_on_eos train_on_eot "
        "message_field_training message_field_training_detail default_system_message drop_system_message "
        "split_thinking",
        differs=True,
    ),
    listed(
        "columns of tools and reasoning are found by their names",
        "field_tools field_thinking template_thinking_key field_system",
        is_feature=False,
    ),
    listed(
        "the columns decide",
        "field field_human field_model field_messages field_chosen field_rejected "
        "field_instruction field_input field_output input_format input_transform conversation system_prompt "
        "system_format no_input_format",
        differs=True,
    ),
    listed(
        "the guards of the run watch the loss",
        "loss_watchdog_threshold loss_watchdog_patience",
        is_feature=False,
    ),
    listed(
        "a plugin's kernels and offloading are a matter of speed or memory",
        "liger_* cut_cross_entropy "
        "lora_mlp_kernel lora_qkv_kernel lora_o_kernel lora_embedding_kernel chunked_cross_entropy* tiled_mlp* "
        "unsloth_* flash_attn_* layer_offloading selective_checkpointing gc_steps gc_collect_steps "
        "dpo_use_liger_kernel flex_attn_compile_kwargs dpo_generate_during_eval "
        "dpo_padding_free dpo_use_logits_to_keep pad_to_sequence_len batch_flattening "
        "flash_optimum large_head_attention sdpa_varlen fused_attn_kernel gemma4_hybrid_attn_impl "
        "experts_implementation ple_cpu_offload deepcompile lora_on_cpu qlora_sharded_model_loading "
        "gpu_memory_limit experimental_skip_move_to_device eval_sequence_len fp32_norms fp32_norm_classes "
        "use_onebitllms heads_k_stride ring_attn_func bnb_config_kwargs.* embeddings_skip_upcast",
        is_feature=False,
    ),
    listed(
        "a job is spread by `launch` alone, without these kinds of parallelism",
        "dp_shard_size dp_replicate_size "
        "sequence_parallel_degree context_parallel_size tensor_parallel_size use_ray ray_* resources_per_worker "
        "ddp",
        is_feature=False,
    ),
    listed(
        "credentials and accounts come from the environment",
        "wandb_entity wandb_watch wandb_log_model wandb_mode "
        "wandb_run_id mlflow_tracking_uri hf_mlflow_log_artifacts comet_* trackio_space_id swanlab_* "
        "use_otel_metrics otel_* hf_use_auth_token",
        is_feature=False,
    ),
    listed(
        "the optimizer's own settings cannot be set",
        "adam_beta3 adam_epsilon2 embedding_lr embedding_lr_scale "
        "lr_groups loraplus_* dion_* qgalore_* torchdistx_path lr_div_factor lr_quadratic_warmup "
        "cosine_constant_lr_ratio jagged_restart_* relora* lisa_* optim_target_modules",
        differs=True,
    ),
    listed(
        "this setting of the adapter does not exist here",
        "lora_fan_in_fan_out lora_target_parameters "
        "lora_rank_pattern lora_alpha_pattern peft_layers_* peft_layer_* peft_trainable_token_indices "
        "peft_ensure_weight_tying peft_autocast_adapter_dtype peft.* merge_lora merge_method",
        differs=True,
    ),
    listed(
        "weights are trained as usual",
        "unfrozen_parameters freeze_mm_modules reinit_weights qat.* quantization.* "
        "fp8* use_pose pose_* use_eaft eaft_* ebft.* diffusion.* quantize_moe_experts llama4_linearized_experts "
        "spectrum_*",
        differs=True,
    ),
    listed(
        "samples are generated as the section `evaluation` says",
        "generate_samples num_generation_samples "
        "generation_* do_bench_eval bench_* do_causal_lm_eval eval_causal_lm_metrics eval_table_size "
        "eval_max_new_tokens lm_eval_*",
    ),
    listed(
        "models of images and sound cannot be trained here",
        "image_size image_resize_algorithm role_boundaries",
        differs=True,
    ),
    listed("only for objectives that generate answers in training", "trl.* vllm.*", is_feature=False),
    listed("only for continued pretraining", "pretrain_* pretraining_* streaming*", is_feature=False),
    listed(
        "only for other commands than training",
        "gradio_* profiler_* dynamic_checkpoint.* total_num_tokens "
        "total_supervised_tokens sample_packing_eff_est axolotl_config_path capabilities env_capabilities strict "
        "device model_quantization_config* save_first_step max_packed_sequence_len",
        is_feature=False,
    ),
    listed("another trainer's code is not run", "trainer_cls", differs=True),
    listed(
        "the objective does not use it",
        "orpo_alpha simpo_gamma cpo_alpha kto_desirable_weight kto_undesirable_weight dpo_loss_type dpo_loss_weights "
        "dpo_label_smoothing dpo_use_weighting dpo_beta rpo_alpha center_rewards_coefficient rl_beta reward_model "
        "train_on_inputs",
        is_feature=False,
    ),
)
