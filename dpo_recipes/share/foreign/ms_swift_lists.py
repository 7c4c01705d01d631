"""ms-swift's keys that no field of a recipe has."""

from __future__ import annotations

from dpo_recipes.share.foreign import trainer, trl_common
from dpo_recipes.share.foreign.command import PREPARATION
from dpo_recipes.share.foreign.environment import LISTED as ENVIRONMENT_LISTED
from dpo_recipes.share.foreign.listed import Listed, listed

LISTED: tuple[Listed, ...] = (
    listed(
        "the load balance of a mixture of experts is not part of the loss",
        "moe_aux_loss_coeff moe_z_loss_coeff router_aux_loss_coef",
        differs=True,
    ),
    listed(
        "`swift export` prepares rows in advance, which happens by itself here", f"{PREPARATION}.*", is_feature=False
    ),
    listed(
        "prepared rows are cached by their content",
        "load_from_cache_file lazy_tokenize dataset_num_proc shuffle_buffer_size cached_dataset cached_val_dataset "
        "download_mode packing_* disable_auto_column_mapping strict",
        is_feature=False,
    ),
    listed(
        "rows are in random order in each epoch",
        "dataset_shuffle train_dataloader_shuffle val_dataset_shuffle",
        is_feature=False,
    ),
    listed("how sources are mixed follows from their weights", "interleave_prob stopping_strategy", differs=True),
    listed(
        "the class follows from the model's own configuration",
        "model_type task_type num_labels problem_type local_repo_path init_strategy model_name model_author",
        is_feature=False,
    ),
    listed("the tokenizer of the base is used", "new_special_tokens", differs=True),
    listed("values of the model's configuration cannot be changed", "rope_scaling", differs=True),
    listed("training ends after `num_train_epochs`", "max_epochs", differs=True),
    listed("a default system message does not exist here", "system", differs=True),
    listed(
        "which tokens are trained on follows from `data.train_on_turns`",
        "loss_scale is_binary_loss_scale "
        "response_prefix add_non_thinking_prefix preserve_thinking disable_ignore_empty_think",
        differs=True,
    ),
    listed(
        "how a row is written follows from the chat template",
        "template_backend use_chat_template agent_template norm_bbox padding_side",
        is_feature=False,
    ),
    listed(
        "models of images and sound cannot be trained here; their parts stay as they are",
        "freeze_vit freeze_llm freeze_aligner vit_* aligner_lr max_pixels",
        is_feature=False,
    ),
    listed("weights are trained as usual", "freeze_parameters* trainable_parameters* lisa_*", differs=True),
    listed("biases stay frozen here, as with `none`", "lora_bias", differs=True),
    listed(
        "this setting of the adapter does not exist here",
        "lora_dtype lorap_lr_ratio target_parameters lora_ga_* "
        "fourier_* boft_* vera_* adapter_act adapter_length adalora_* llamapro_* reft_* use_swift_lora",
        differs=True,
    ),
    listed("this optimizer does not exist here", "use_galore galore_* optimizer muon_*", differs=True),
    listed(
        "the reference is the untouched base",
        "ref_model ref_adapters ref_model_* mcore_ref_model mcore_ref_adapter",
        differs=True,
    ),
    listed("this loss does not exist here", "enable_dft_loss enable_channel_loss mrl_dims", differs=True),
    listed(
        "only with another objective",
        "beta loss_type loss_weights rpo_alpha ld_alpha discopop_tau cpo_alpha "
        "simpo_gamma desirable_weight undesirable_weight center_rewards_coefficient label_smoothing sft_alpha "
        "lmbda seq_kd gkd_logits_topk teacher_* offload_teacher_model num_generations reward_* log_completions "
        "max_completion_length num_iterations temperature use_vllm vllm_* kl_coef cliprange whiten_rewards "
        "num_ppo_epochs "
        "vf_coef cliprange_value gamma lam num_mini_batches "
        "local_rollout_forward_batch_size num_sample_generations response_length missing_eos_penalty stream logprobs "
        "top_logprobs structured_outputs_regex decision_* "
        "top_k top_p repetition_penalty stop_words num_beams calculate_KL undesirable_weight "
        "f_divergence_type",
        is_feature=False,
    ),
    listed("code of the file is not run", "external_plugins custom_register_path callbacks", differs=True),
    listed("the file describes datasets, which are read by their columns", "custom_dataset_info", differs=True),
    listed("columns are chosen by the format", "columns remove_unused_columns", is_feature=False),
    listed(
        "a matter of speed or memory; the result is the same",
        "tuner_backend tuner_type train_type sft_type "
        "sequence_parallel_size zero_hpz_partition_size deepspeed_autotp_size ds3_gather_for_generation acc_strategy "
        "check_model max_shard_size safe_serialization ddp_backend use_ray ray_* experts_impl "
        "enable_npu_model_patch model_kwargs use_flash_ckpt max_model_len hqq_axis quant_method "
        "bnb_4bit_quant_storage bnb_4bit_* ignore_args_error",
        is_feature=False,
    ),
    listed(
        "Megatron divides the model among devices in its own way; the result is the same",
        "*_parallel_size *_parallel tensor_model_parallel* pipeline_model_parallel* recompute_* moe_* "
        "attention_backend cross_entropy_* *_fusion save_safetensors no_save_* no_load_* finetune "
        "optimizer_cpu_offload optimizer_offload_fraction use_precision_aware_optimizer sequence_parallel overlap_* "
        "ddp_bucket_* use_distributed_optimizer async_save mcore_* load_safetensors model_only "
        "merge_lora fp8_* fp4_* main_grads_dtype main_params_dtype exp_avg_* manual_gc* *_init eval_iters "
        "tensorboard_* megatron_extra_kwargs language_model_only perform_initialization sequence_packing_scheduler "
        "group_by_length data_sharding",
        is_feature=False,
    ),
    listed("Adam's own numbers cannot be set", "adam_beta1 adam_beta2 adam_eps", differs=True),
    listed(
        "this schedule does not exist here",
        "lr_wsd_* lr_decay_iters start_weight_decay end_weight_decay weight_decay_incr_style",
        differs=True,
    ),
    listed(
        "metrics and evaluations of its own",
        "eval_use_evalscope eval_dataset eval_dataset_args eval_limit "
        "eval_generation_config extra_eval_args eval_metric metric metric_for_best_model greater_is_better",
        is_feature=False,
    ),
    listed("accounts come from the environment", "swanlab_* wandb_*", is_feature=False),
    listed("a run always has a folder of its own", "load_args load_data_args", is_feature=False),
    *trl_common.LISTED,
    *trainer.LISTED,
    *ENVIRONMENT_LISTED,
)
