"""transformers' `fsdp_config` for a recipe: FSDP2, torch's `fully_shard`."""

from __future__ import annotations

from typing import Any

from dpo_recipes.launch.merge import merged
from dpo_recipes.recipe.schema import Recipe


def fsdp_config(recipe: Recipe) -> dict[str, Any]:
    """The configuration that transformers' TrainingArguments take beside `fsdp=True`, `launch.fsdp` merged in."""
    config = {
        "version": 2,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "reshard_after_forward": True,
        "cpu_offload": recipe.launch.offload == "all",
        # Saved models and checkpoints of the weights are whole; optimizer state follows them.
        "state_dict_type": "FULL_STATE_DICT",
        # transformers' own checkpointing would gather every layer once more in the backward pass.
        "activation_checkpointing": recipe.training.gradient_checkpointing,
        "cpu_ram_efficient_loading": False,
    }
    return merged(config, recipe.launch.fsdp)
