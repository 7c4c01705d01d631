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
        # transformers' own checkpointing does the same: FSDP2 gathers a recomputed layer no more often (`_pre_forward`
        # in torch 2.13). accelerate's renames modules, so that peft finds no adapter to save in them.
        "activation_checkpointing": False,
        "cpu_ram_efficient_loading": False,
    }
    return merged(config, recipe.launch.fsdp)
