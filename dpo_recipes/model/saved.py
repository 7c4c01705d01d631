"""Loads the model that a run has saved: an adapter on its base, or a whole model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

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
    from transformers import AutoModelForCausalLM

    chosen = {} if attention is None else {"attn_implementation": attention}
    if kind == "adapter":
        return PeftModel.from_pretrained(base(), folder)
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code, **chosen
    )
    return model.to(device)
