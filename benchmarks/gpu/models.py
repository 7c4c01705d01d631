"""Models of real shapes with random weights, which are made in seconds where the model is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import memory

SHAPES: dict[str, dict[str, Any]] = {
    "qwen2-0.5b": dict(
        model_type="qwen2", vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
        num_attention_heads=14, num_key_value_heads=2, tie_word_embeddings=True, max_position_embeddings=32768,
    ),
    "llama-3.2-1b": dict(
        model_type="llama", vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
        num_attention_heads=32, num_key_value_heads=8, tie_word_embeddings=True, max_position_embeddings=8192,
    ),
    "llama-3-8b": dict(
        model_type="llama", vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, tie_word_embeddings=False, max_position_embeddings=8192,
    ),
    "tiny": dict(
        model_type="llama", vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, max_position_embeddings=512,
    ),
    **memory.MODELS,
}  # fmt: skip
"""Configurations by name. The real ones are those of the published models' config.json."""

_BLOCK = 2**22


def write_folder(name: str, parent: Path) -> Path:
    """A folder with the configuration and a tokenizer, without weights."""
    from transformers import AutoConfig

    folder = parent / name
    if not folder.exists():
        AutoConfig.for_model(**SHAPES[name]).save_pretrained(folder)
        memory.save_tokenizer(folder)
    return folder


@contextmanager
def random_weights(where: str) -> Iterator[None]:
    """Have `AutoModelForCausalLM.from_pretrained` make weights up on a device (`cuda`, `cpu`) instead of reading them.

    All else is transformers' own way of loading: precision, quantization, placement, tied weights. Weights that are
    made on the GPU take no time, and the room of the whole unquantized model there while it is loaded.
    """
    from transformers import AutoModelForCausalLM

    own = AutoModelForCausalLM.__dict__["from_pretrained"]
    AutoModelForCausalLM.from_pretrained = staticmethod(
        lambda path, *args, **kwargs: _from_config(path, where, *args, **kwargs)
    )
    try:
        yield
    finally:
        AutoModelForCausalLM.from_pretrained = own


def _from_config(path: str, where: str, *args: Any, **kwargs: Any) -> Any:
    import torch
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    config = kwargs.pop("config", None) or AutoConfig.from_pretrained(path)
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    with torch.device("meta"):
        meta_model = model_class(config)
    quantized = kwargs.get("quantization_config") is not None
    dtype = torch.bfloat16 if quantized else kwargs.get("dtype") or torch.float32
    block = (0.02 * torch.randn(_BLOCK, generator=torch.Generator().manual_seed(0))).to(where, dtype)
    state = {name: _draw(name, weight, block) for name, weight in meta_model.named_parameters()}
    model = model_class.from_pretrained(None, *args, config=config, state_dict=state, **kwargs)
    loaded = model[0] if isinstance(model, tuple) else model
    loaded.config._name_or_path = loaded.name_or_path = str(path)
    return model


def _draw(name: str, weight: Any, block: Any) -> Any:
    """A weight's numbers, from a block of random ones that begins elsewhere for each weight."""
    if weight.ndim == 1:
        fill = 0.0 if name.endswith("bias") else 1.0
        return block.new_full(weight.shape, fill)
    start = sum(name.encode()) * 7919 % _BLOCK
    repeats = -(-(start + weight.numel()) // _BLOCK)
    return block.repeat(repeats)[start : start + weight.numel()].reshape(weight.shape)


def build(recipe: Any, device: str) -> Any:
    """The recipe's base with random weights as the worker builds it."""
    from dpo_recipes.model.build import build_model
    from dpo_recipes.model.sources import resolve_model
    from dpo_recipes.model.tokenizer import load_tokenizer

    location = resolve_model(recipe.model)
    tokenizer = load_tokenizer(location, trust_remote_code=False)
    chat = SimpleNamespace(end_ids=[tokenizer.eos_token_id], added_ids=[], template=SimpleNamespace(name="none"))
    with random_weights(device):
        return build_model(recipe, location, tokenizer, chat, trust_remote_code=False)
