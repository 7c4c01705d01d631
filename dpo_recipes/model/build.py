"""The policy, its tokenizer and adapter configuration, and a truthful description of all of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from dpo_recipes.model.adapters import adapter_config, describe_adapter
from dpo_recipes.model.loading import loading_errors
from dpo_recipes.model.precision import choose_device, choose_dtype
from dpo_recipes.model.sources import ModelLocation, loaded_commit
from dpo_recipes.recipe.schema import Recipe


@dataclass
class ModelBundle:
    """What training needs of the model stage.

    The reference is not in it: its log-probabilities are computed before the first step, by the policy with its
    adapter switched off or still untrained.
    """

    policy: Any
    tokenizer: Any
    adapter_config: Any | None
    device: str
    dtype: str
    location: ModelLocation
    chat: Any
    """The recipe's chat template with its renderer and end tokens (`data.chat_template.Chat`)."""
    stack: dict[str, Any] = field(default_factory=dict)


def build_model(
    recipe: Recipe, location: ModelLocation, tokenizer: Any, chat: Any, *, trust_remote_code: bool
) -> ModelBundle:
    """Load the base model for training, with embeddings for all tokens.

    Raises `RunError` M504 (cannot be loaded), M507, M508."""
    device = choose_device(recipe.hardware.device)
    dtype = choose_dtype(recipe, device)
    policy = _load_policy(recipe, location, dtype, trust_remote_code=trust_remote_code)
    _switch_off_dropout(policy)
    if len(tokenizer) > policy.get_input_embeddings().num_embeddings:
        policy.resize_token_embeddings(len(tokenizer))
    # What is generated from the saved model must end where the template ends a turn.
    policy.generation_config.eos_token_id = sorted(chat.end_ids)
    policy.generation_config.pad_token_id = tokenizer.pad_token_id
    adapter = adapter_config(recipe, policy, chat.added_ids)
    bundle = ModelBundle(policy, tokenizer, adapter, device, dtype, location, chat)
    bundle.stack = {
        "base": recipe.model.path,
        "revision": loaded_commit(location) or recipe.model.revision,
        "architecture": type(policy).__name__,
        "dtype": dtype,
        "weights_dtype": str(policy.dtype).removeprefix("torch."),
        "device": device,
        "device_name": torch.cuda.get_device_name() if device == "cuda" else device,
        "attention": policy.config._attn_implementation,
        "adapter": describe_adapter(recipe),
        "added_tokens": tokenizer.convert_ids_to_tokens(chat.added_ids),
        "total_parameters": sum(p.numel() for p in policy.parameters()),
        "reference": "the untouched base: its log-probabilities are computed once, before the first step",
    }
    return bundle


def _load_policy(recipe: Recipe, location: ModelLocation, dtype: str, *, trust_remote_code: bool) -> Any:
    from transformers import AutoModelForCausalLM, GgufConfig

    # Full fine-tuning keeps 32-bit weights: updates of a small learning rate vanish in 16-bit ones.
    weights_dtype = dtype if recipe.model.adapter else "float32"
    extra: dict[str, Any] = {}
    if location.gguf_file:
        extra = {"gguf_file": location.gguf_file, "quantization_config": GgufConfig(dequantize=True)}
    if recipe.model.attn_implementation != "auto":
        extra["attn_implementation"] = recipe.model.attn_implementation
    with loading_errors("the model", location):
        return AutoModelForCausalLM.from_pretrained(
            location.path,
            revision=location.revision or "main",
            dtype=getattr(torch, weights_dtype),
            trust_remote_code=trust_remote_code,
            **extra,
        )


def _switch_off_dropout(policy: torch.nn.Module) -> None:
    """As TRL's `disable_dropout` does, but before the adapter is added, so that the adapter keeps its own."""
    for module in policy.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
