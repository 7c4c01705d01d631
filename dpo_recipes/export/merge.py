"""Merges an adapter into the weights of its base."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dpo_recipes.export.precision import widen
from dpo_recipes.model.build import ModelBundle, reload_base
from dpo_recipes.model.heads import auto_class
from dpo_recipes.objectives import objective_of
from dpo_recipes.objectives.base import Head
from dpo_recipes.recipe.schema import Recipe


def merges_in_place(recipe: Recipe, state: dict[str, Any] | None) -> bool:
    """Whether the adapter is merged into the trained model itself, without loading the base again."""
    return recipe.model.quantization is None and state is None


def merge(
    model: Any,
    recipe: Recipe,
    bundle: ModelBundle,
    scratch: Path,
    state: dict[str, Any] | None,
    save_adapter: Callable[[Path], None],
) -> Any:
    """The base with the adapter merged into its weights; `scratch` is a folder for intermediate files.

    A quantized base is unpacked first. The adapter was trained on the quantized weights, so it is added to these and
    not to the original ones (merging into the original weights changed logits by 2.5 on average). For a sharded model,
    the base is loaded again and gets the gathered adapter.
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
        _turn_back(merged, objective_of(recipe).head)
    return merged


def _merge_into(model: Any, recipe: Recipe, bundle: ModelBundle) -> Any:
    widen(model, recipe, bundle)
    _untie(model)
    return model.merge_and_unload(adapter_names=["default"])


def _untie(model: Any) -> None:
    """Give the head its own weights if an adapter on the embedding or the head would be merged into their shared
    matrix.

    In training, the adapter changed only one of the two. peft 0.21 merges it into the shared matrix.
    """
    base = model.get_base_model()
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    if head is None or not any(hasattr(layer, "lora_A") for layer in (embedding, head)):
        return
    own, shared = (getattr(layer, "base_layer", layer) for layer in (head, embedding))
    if own.weight.data_ptr() == shared.weight.data_ptr():
        own.weight = torch.nn.Parameter(own.weight.detach().clone(), requires_grad=False)
    base.config.tie_word_embeddings = base.config.get_text_config().tie_word_embeddings = False


def _turn_back(merged: Any, head: Head) -> None:
    """Transpose the weights of GPT-2's layers (`Conv1D`) back after unpacking.

    `dequantize` of transformers 5.23 returns linear layers in the place of `Conv1D`, which stores its weights
    transposed. Afterwards the model can only be saved.
    """
    from transformers.pytorch_utils import Conv1D

    with torch.device("meta"):
        meta_model = auto_class(head).from_config(merged.config)
    for name, module in meta_model.named_modules():
        layer = merged.get_submodule(name) if isinstance(module, Conv1D) else None
        if isinstance(layer, torch.nn.Linear):
            layer.weight = torch.nn.Parameter(layer.weight.detach().T.contiguous(), requires_grad=False)
