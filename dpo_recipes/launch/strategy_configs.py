"""The configurations of DeepSpeed and FSDP for a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpo_recipes.launch.batch import BatchPlan
from dpo_recipes.recipe.schema import Recipe


def stage_of(strategy: str) -> int | None:
    """The ZeRO stage of a strategy, or None if it is not DeepSpeed's."""
    return int(strategy[-1]) if strategy.startswith("deepspeed-zero") else None


def deepspeed_config(recipe: Recipe, strategy: str, batch: BatchPlan, dtype: str | None = None) -> dict[str, Any]:
    """The configuration that `deepspeed.initialize` takes, `launch.deepspeed` merged in.

    `dtype` is the precision in which the run computes. Without it the two switches stay `auto`, and transformers sets
    them.
    """
    launch = recipe.launch
    zero: dict[str, Any] = {"stage": stage_of(strategy)}
    if launch.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": recipe.hardware.device != "cpu"}
    if launch.offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": recipe.hardware.device != "cpu"}
    if strategy == "deepspeed-zero3":
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    micro_batch, accumulation = batch.trainer_batch
    config = {
        "train_batch_size": batch.rows_per_step,
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": recipe.training.max_grad_norm,
        "bf16": {"enabled": "auto" if dtype is None else dtype == "bfloat16"},
        "fp16": {"enabled": "auto" if dtype is None else dtype == "float16"},
        "zero_optimization": zero,
        # Optimizers other than DeepSpeed's own are torch's, and all that a recipe can name are elementwise.
        "zero_allow_untested_optimizer": True,
        # transformers reports progress; DeepSpeed would print a line every ten steps.
        "steps_per_print": 2**31 - 1,
    }
    if launch.offload != "none":
        # CPUAdam is compiled at its first use; torch's own optimizer needs no compiler.
        config["zero_force_ds_cpu_optimizer"] = False
    return _merged(config, launch.deepspeed)


def fsdp_config(recipe: Recipe) -> dict[str, Any]:
    """The configuration that transformers' TrainingArguments take beside `fsdp=True`, `launch.fsdp` merged in."""
    config = {
        "version": 2,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "reshard_after_forward": True,
        "cpu_offload": recipe.launch.offload == "all",
        # Saved models and checkpoints of the weights are whole; optimizer state follows them.
        "state_dict_type": "FULL_STATE_DICT",
        # transformers' own checkpointing does the same: FSDP2 gathers a recomputed layer no more often (`_pre_forward`
        # in torch 2.13). accelerate's renames modules, so that peft finds no adapter to save in them.
        "activation_checkpointing": False,
        "cpu_ram_efficient_loading": False,
    }
    return _merged(config, recipe.launch.fsdp)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` overridden by `above`: mappings are merged, other values replaced."""
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = _merged(result[key], value) if both else value
    return result
