"""Loads the model that a run has saved: an adapter on its base, or a whole model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dpo_recipes.model.heads import auto_class, is_classifier
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
    """The saved model on a device. `base` loads the model that an adapter is for, and is called for an adapter only."""
    from peft import PeftModel
    from transformers import AutoConfig

    chosen = {} if attention is None else {"attn_implementation": attention}
    if kind == "adapter":
        return PeftModel.from_pretrained(base(), folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    model: Any = auto_class("score" if is_classifier(config) else "causal_lm").from_pretrained(
        folder, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code, **chosen
    )
    return model.to(device)
