"""The error for an adapter that is given as the base model. The checks detect it in a local folder, and the model stage
on the hub."""

from __future__ import annotations

import json
from pathlib import Path

from dpo_recipes.errors import Finding


def adapter_as_base(path: str, config: Path) -> Finding:
    """R350 for a `model.path` that contains the adapter configuration `config`, with both ways out."""
    try:
        base = json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        base = None
    return Finding(
        "R350",
        f"{path} contains an adapter, not a base model",
        why=f"it contains an adapter_config.json{f' for the base {base}' if base else ''}",
        fix=f"to continue it, write `model.path: {base or 'BASE'}` and `model.adapter: {{kind: lora, path: {path}}}`; "
        "to train a new adapter on top of it, merge it into its base first (`save_as: merged`, or peft's "
        "`merge_and_unload`)",
        at=("model", "path"),
    )
