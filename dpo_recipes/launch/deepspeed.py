"""DeepSpeed's configuration for a recipe."""

from __future__ import annotations

from typing import Any

from dpo_recipes.launch.batch import BatchPlan
from dpo_recipes.launch.merge import merged
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
        "train_batch_size": batch.pairs_per_step,
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
    return merged(config, launch.deepspeed)
