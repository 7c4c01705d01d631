"""The policy, its tokenizer and adapter configuration, and a truthful description of all of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

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
    stack: dict[str, Any] = field(default_factory=dict)


def build_model(recipe: Recipe, location: ModelLocation, tokenizer: Any, *, trust_remote_code: bool) -> ModelBundle:
    """Load the base model for training. Raises `RunError` M504 (cannot be loaded), M507, M508."""
    device = choose_device(recipe.hardware.device)
    dtype = choose_dtype(recipe, device)
    policy = _load_policy(recipe, location, dtype, trust_remote_code=trust_remote_code)
    _switch_off_dropout(policy)
    bundle = ModelBundle(policy, tokenizer, _adapter_config(recipe), device, dtype, location)
    bundle.stack = {
        "base": recipe.model.path,
        "revision": loaded_commit(location) or recipe.model.revision,
        "architecture": type(policy).__name__,
        "dtype": dtype,
        "weights_dtype": str(policy.dtype).removeprefix("torch."),
        "device": device,
        "device_name": torch.cuda.get_device_name() if device == "cuda" else device,
        "attention": policy.config._attn_implementation,
        "adapter": _describe_adapter(recipe),
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


def _adapter_config(recipe: Recipe) -> Any | None:
    adapter = recipe.model.adapter
    if adapter is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=adapter.r,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=adapter.target_modules,
        task_type="CAUSAL_LM",
    )


def _describe_adapter(recipe: Recipe) -> str:
    adapter = recipe.model.adapter
    if adapter is None:
        return "none: full fine-tuning"
    modules = adapter.target_modules
    on = "all linear layers" if modules == "all-linear" else modules if isinstance(modules, str) else ", ".join(modules)
    return f"LoRA r={adapter.r} alpha={adapter.alpha} dropout={adapter.dropout:g} on {on}"
