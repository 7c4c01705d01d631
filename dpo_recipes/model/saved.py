"""Loads models that are ready to use: an adapter on its base, or a whole model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dpo_recipes.model.heads import auto_class, is_classifier
from dpo_recipes.model.sources import ModelLocation
from dpo_recipes.run_result import SavedKind


def load_saved(
    folder: Path,
    kind: SavedKind,
    base: Callable[[], Any],
    *,
    device: str,
    dtype: str,
    attention: str | None,
    trust_remote_code: bool,
) -> Any:
    """The model that a run has saved, on a device. `base` loads the model that an adapter is for, and is called for an
    adapter only."""
    from peft import PeftModel
    from transformers import AutoConfig

    if kind == "adapter":
        return PeftModel.from_pretrained(base(), folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    saved = ModelLocation(str(folder))
    return load_whole(
        saved, config, device=device, dtype=dtype, attention=attention, trust_remote_code=trust_remote_code
    )


def load_whole(
    location: ModelLocation, config: Any, *, device: str, dtype: str, attention: str | None, trust_remote_code: bool
) -> Any:
    """A whole model on a device: a sequence classifier if it was saved as one, otherwise a causal language model."""
    from transformers import GgufConfig

    extra: dict[str, Any] = {"dtype": getattr(torch, dtype), "trust_remote_code": trust_remote_code}
    if attention is not None:
        extra["attn_implementation"] = attention
    if location.gguf_file:
        gguf = GgufConfig(dequantize=True)
        extra |= {"config": config, "gguf_file": location.gguf_file, "quantization_config": gguf}
    else:
        extra["revision"] = location.revision or "main"
    model: Any = auto_class("score" if is_classifier(config) else "causal_lm").from_pretrained(location.path, **extra)
    return model.to(device)
