"""The tuned model as safetensors, with tokenizer, template and card; written aside and renamed when whole."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from dpo_recipes.errors import RunError
from dpo_recipes.export.card import render_card
from dpo_recipes.model.build import ModelBundle
from dpo_recipes.recipe.schema import Recipe

MODEL_FOLDER = "model"


def save_model(
    model: Any, bundle: ModelBundle, recipe: Recipe, run_dir: Path, result: dict[str, Any]
) -> tuple[Path, str]:
    """Save to `run_dir/model`; returns the folder and what was saved: `adapter`, `merged` or `full`.

    Raises `RunError` T602 when the disk is full before it begins.
    """
    target, partial = run_dir / MODEL_FOLDER, run_dir / (MODEL_FOLDER + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    kind = saved_kind(recipe, bundle)
    if kind == "merged":
        model = model.merge_and_unload()
    _check_space(model, run_dir, kind)
    # The rows of new tokens are saved with the adapter; peft would add both embedding matrices whole.
    extra = {"save_embedding_layers": False} if kind == "adapter" else {}
    model.save_pretrained(partial, safe_serialization=True, **extra)
    bundle.tokenizer.save_pretrained(partial)
    (partial / "README.md").write_text(render_card(recipe, {**result, "saved": kind}), encoding="utf-8")
    partial.rename(target)
    return target, kind


def saved_kind(recipe: Recipe, bundle: ModelBundle) -> str:
    """What a run saves: `adapter`, `merged` (base and adapter in one) or `full`."""
    adapter = recipe.model.adapter
    if adapter is None:
        return "full"
    if adapter.save_as != "auto":
        return adapter.save_as
    return "merged" if bundle.location.gguf_file else "adapter"


def _check_space(model: Any, run_dir: Path, kind: str) -> None:
    saved = (p for name, p in model.named_parameters() if kind != "adapter" or "lora_" in name)
    needed_bytes = sum(p.numel() * p.element_size() for p in saved)
    free_bytes = shutil.disk_usage(run_dir).free
    if free_bytes < needed_bytes * 1.05:
        raise RunError.of(
            "T602",
            f"not enough space for the model in {run_dir}",
            why=f"it takes {needed_bytes / 1e6:.0f} MB, {free_bytes / 1e6:.0f} MB are free",
            fix="free some space and run again",
        )
