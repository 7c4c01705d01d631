"""The keys that `launch.deepspeed`, `launch.fsdp` and `launch.accelerate` may have, and the fields of a recipe that set
the others.

They are taken from DeepSpeed 0.19.8, transformers 5.23 and accelerate 1.15; a test compares them with the libraries.
"""

from __future__ import annotations

DEEPSPEED = frozenset(
    {
        *("activation_checkpointing", "aio", "checkpoint", "comms_logger", "communication_data_type", "compile"),
        *("csv_monitor", "data_types", "datastates_ckpt", "disable_allgather", "disable_python_gc", "dump_state"),
        *("flops_profiler", "fp16", "bf16", "gradient_allreduce_op", "gradient_predivide_factor", "log_level"),
        *("memory_breakdown", "prescale_gradients", "seq_parallel_communication_data_type", "steps_per_print"),
        *("tensorboard", "timers", "torch_autocast", "wall_clock_breakdown", "zero_allow_untested_optimizer"),
        *("zero_force_ds_cpu_optimizer", "zero_optimization"),
    }
)
DEEPSPEED_ZERO = frozenset(
    {
        *("allgather_bucket_size", "allgather_partitions", "compute_grad_norm", "contiguous_gradients"),
        *("elastic_checkpoint", "enable_sanity_checks", "ignore_unused_parameters", "leaf_module", "legacy_stage1"),
        *("load_from_fp32_weights", "log_trace_cache_warnings", "memory_efficient_linear", "offload_optimizer"),
        *("offload_param", "override_module_apply", "overlap_comm", "parameter_alignment"),
        *("pipeline_loading_checkpoint", "reduce_bucket_size", "reduce_scatter", "round_robin_gradients"),
        *("save_muon_momentum_buffer_in_memory", "stage3_allgather_sequential", "stage3_max_live_parameters"),
        *("stage3_max_reuse_distance", "stage3_model_persistence_threshold", "stage3_module_granularity_threshold"),
        *("stage3_param_persistence_threshold", "stage3_prefetch_bucket_size", "sub_group_size"),
        *("stage3_use_all_reduce_for_fetch_params", "use_multi_rank_bucket_allreduce", "zenflow"),
        *("zero_hpz_partition_size", "zero_quantized_gradients", "zero_quantized_nontrainable_weights"),
        "zero_quantized_weights",
    }
)
FSDP = frozenset(
    {"auto_wrap_policy", "cpu_ram_efficient_loading", "min_num_params", "reshard_after_forward", "state_dict_type"}
    | {"transformer_layer_cls_to_wrap"}
)
ACCELERATE = frozenset({"gradient_accumulation_kwargs", "non_blocking"})

_OURS = "dpo-recipe itself: it divides batches so that the result is the same with any number of processes"
SAID_ELSEWHERE: dict[str, dict[str, str]] = {
    "deepspeed": {
        "train_batch_size": "`training.micro_batch_size`, `gradient_accumulation_steps` and `launch.num_processes`",
        "train_micro_batch_size_per_gpu": "`training.micro_batch_size`",
        "gradient_accumulation_steps": "`training.gradient_accumulation_steps`",
        "gradient_clipping": "`training.max_grad_norm`",
        "optimizer": "`training.optimizer`",
        "scheduler": "`training.lr_scheduler`",
        "zero_optimization.stage": "`launch.strategy`",
        "zero_optimization.cpu_offload": "`launch.offload`",
        "zero_optimization.cpu_offload_param": "`launch.offload`",
        "zero_optimization.offload_optimizer.device": "`launch.offload`",
        "zero_optimization.offload_param.device": "`launch.offload`",
        "zero_optimization.stage3_gather_16bit_weights_on_model_save": "dpo-recipe itself: it saves the whole model",
        "fp16.enabled": "`model.dtype`",
        "bf16.enabled": "`model.dtype`",
    },
    "fsdp": {
        "version": "dpo-recipe itself: FSDP2",
        "cpu_offload": "`launch.offload`",
        "activation_checkpointing": "`training.gradient_checkpointing`",
    },
    "accelerate": {
        "split_batches": _OURS,
        "dispatch_batches": _OURS,
        "even_batches": _OURS,
        "use_seedable_sampler": _OURS,
        "gradient_accumulation_kwargs.num_steps": "`training.gradient_accumulation_steps`",
    },
}
"""Settings by their path in a section, with the field of a recipe that sets them."""
