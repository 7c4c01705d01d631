"""Handles differences between the tested versions of transformers. Differences of torch are in varlen.py.

Tested: transformers 5.17 and 5.23. The latter renames `gradient_checkpointing` to `activation_checkpointing`, and
accepts the old name with a warning.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from transformers import TrainingArguments


def checkpointing_argument() -> str:
    """The training argument that recomputes activations in the backward pass."""
    names = {field.name for field in fields(TrainingArguments)}
    return "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"


def enable_checkpointing(model: Any, checkpointing_kwargs: dict[str, Any] | None = None) -> None:
    """Make a model of transformers recompute activations in its backward pass, as its trainer does."""
    getattr(model, f"{checkpointing_argument()}_enable")(checkpointing_kwargs)
