"""Loads bases in 4 or 8 bits with bitsandbytes, and checks bases that are already quantized."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from dpo_recipes.errors import RunError
from dpo_recipes.recipe.schema.quantization import Quantization

_LIBRARIES = {
    "gptq": "gptqmodel",
    "awq": "gptqmodel",
    "bitsandbytes": "bitsandbytes",
    "bitsandbytes_4bit": "bitsandbytes",
}


def quantization_config(quantization: Quantization, dtype: str, whole: list[str] | None = None) -> Any:
    """transformers' configuration for loading a quantized base; `dtype` is the precision of the run. `whole` are the
    modules that are not quantized; None leaves the choice to transformers, which excepts the head for tokens."""
    from transformers import BitsAndBytesConfig

    if quantization.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=whole)
    compute = dtype if quantization.compute_dtype == "auto" else quantization.compute_dtype
    return BitsAndBytesConfig(
        load_in_4bit=True,
        llm_int8_skip_modules=whole,
        bnb_4bit_quant_type=quantization.quant_type,
        bnb_4bit_use_double_quant=quantization.double_quant,
        bnb_4bit_compute_dtype=getattr(torch, compute),
    )


def keep_differentiable(policy: torch.nn.Module) -> None:
    """Keep 4-bit layers on a CPU in the layout that supports a backward pass.

    On processors with AVX512-BF16, bitsandbytes 0.50 repacks a layer's weights in its first pass without gradients,
    such as the reference pass, for a kernel that rounds to bfloat16 and has no backward pass. It then uses this kernel
    in training too: no gradient reaches the layers below, and no error is raised.
    """
    for module in policy.modules():
        if hasattr(module, REPACKS):
            setattr(module, REPACKS, False)


def let_go_of_files(policy: torch.nn.Module) -> None:
    """Copy the weights that stay in full precision when a base is quantized: embeddings, norms, the head.

    On a CPU they are views of the base's files. Without the copy the files stay mapped as a whole, including the pages
    of weights that are already quantized.
    """
    for weight in policy.parameters():
        if weight.is_floating_point():
            weight.data = weight.data.clone()


REPACKS = "support_avx512bf16_for_cpu"
"""The attribute of bitsandbytes' `Linear4bit` that enables repacking."""


def check_own_quantization(
    config: Any, path: str, *, wants_more: bool, has_adapter: bool, needs_library: bool = True
) -> str | None:
    """The method of a base that is already quantized; None if it is not.

    Raises `RunError` M511 if the recipe would quantize it again or train it whole, or if the library that loads it is
    missing (`needs_library`).
    """
    own = getattr(config, "quantization_config", None)
    if own is None:
        return None
    method = str(own.get("quant_method", "") if isinstance(own, dict) else own.quant_method).lower()
    method = method.rpartition(".")[2]
    library = _LIBRARIES.get(method)
    why = fix = None
    if wants_more:
        why, fix = f"its weights are stored by {method}", "remove `model.quantization`"
    elif not has_adapter:
        why, fix = "quantized weights cannot be trained", "add `model.adapter`, or use the unquantized base"
    elif needs_library and library and importlib.util.find_spec(library) is None:
        why, fix = f"{library}, which reads {method} weights, is not installed", f"pip install {library}"
    if why:
        raise RunError.of("M511", f"{path} is already quantized", why=why, fix=fix)
    return method


def describe_quantization(quantization: Quantization | None, own: str | None) -> str:
    """A description of the base's quantization."""
    if quantization is None:
        return f"{own}, as the base is stored" if own else "none"
    if quantization.bits == 8:
        return "LLM.int8 (bitsandbytes)"
    double = ", double quantization" if quantization.double_quant else ""
    return f"{quantization.quant_type}{double} (bitsandbytes)"
