"""The base with the adapter in its weights."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dpo_recipes.export.precision import widen
from dpo_recipes.model.build import ModelBundle, reload_base
from dpo_recipes.recipe.schema import Recipe


def merges_in_place(recipe: Recipe, state: dict[str, Any] | None) -> bool:
    """Whether the trained model itself becomes the merged one."""
    return recipe.model.quantization is None and state is None


def merge(
    model: Any,
    recipe: Recipe,
    bundle: ModelBundle,
    scratch: Path,
    state: dict[str, Any] | None,
    save_adapter: Callable[[Path], None],
) -> Any:
    """The base with the adapter in its weights; `scratch` is a folder for what is needed on the way.

    A quantized base is unpacked first: what was trained is the adapter on the quantized weights, so these, and not the
    original ones, are what it is added to (merging into the original changed logits by 2.5 on average). A model that is
    in pieces is loaded once more and gets the adapter that was put together.
    """
    if merges_in_place(recipe, state):
        return _merge_into(model, recipe, bundle)
    from peft import PeftModel

    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        save_adapter(Path(folder) / "adapter")
        base = reload_base(recipe, bundle)
        is_quantized = recipe.model.quantization is not None
        base = base.dequantize() if is_quantized else base
        merged = _merge_into(PeftModel.from_pretrained(base, Path(folder) / "adapter"), recipe, bundle)
    if is_quantized:
        _turn_back(merged)
    return merged


def _merge_into(model: Any, recipe: Recipe, bundle: ModelBundle) -> Any:
    widen(model, recipe, bundle)
    _untie(model)
    return model.merge_and_unload(adapter_names=["default"])


def _untie(model: Any) -> None:
    """Give the head weights of its own where an adapter of the embedding, or of the head, is merged into a matrix that
    both share: in training the adapter changed only one of them. peft 0.21 merges into the shared one."""
    base = model.get_base_model()
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    if head is None or not any(hasattr(layer, "lora_A") for layer in (embedding, head)):
        return
    own, shared = (getattr(layer, "base_layer", layer) for layer in (head, embedding))
    if own.weight.data_ptr() == shared.weight.data_ptr():
        own.weight = torch.nn.Parameter(own.weight.detach().clone(), requires_grad=False)
    base.config.tie_word_embeddings = base.config.get_text_config().tie_word_embeddings = False


def _turn_back(merged: Any) -> None:
    """Turn weights back that bitsandbytes has turned: GPT-2's layers (`Conv1D`) hold them transposed, and
    `dequantize` of transformers 5.23 gives plain linear layers for them. The model is good for saving only."""
    from transformers import AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(merged.config)
    for name, module in skeleton.named_modules():
        layer = merged.get_submodule(name) if isinstance(module, Conv1D) else None
        if isinstance(layer, torch.nn.Linear):
            layer.weight = torch.nn.Parameter(layer.weight.detach().T.contiguous(), requires_grad=False)
