"""Chooses the number format in which a whole model is saved, and converts its weights."""

from __future__ import annotations

from typing import Any

import torch

from dpo_recipes.errors import Finding
from dpo_recipes.model.build import ModelBundle
from dpo_recipes.recipe.schema import Recipe


def save_dtype(recipe: Recipe, bundle: ModelBundle) -> torch.dtype:
    """The format of `model.save_dtype`; `auto` is the format of the base's files."""
    wanted = recipe.model.save_dtype
    return getattr(torch, bundle.stored_dtype if wanted == "auto" else wanted)


def widen(model: Any, recipe: Recipe, bundle: ModelBundle) -> None:
    """Convert a model to the format it is saved in, if that is wider, before an adapter is merged into it.

    Otherwise the sum would be rounded to the narrower format.
    """
    wanted = save_dtype(recipe, bundle)
    for weight in model.parameters():
        if weight.is_floating_point() and weight.element_size() < wanted.itemsize:
            weight.data = weight.data.to(wanted)


def cast(state: dict[str, Any], dtype: torch.dtype) -> tuple[dict[str, Any], list[str]]:
    """The weights in another format, and the names of those that exceed its range. Tied weights stay tied."""
    known: dict[tuple[int, torch.Size], Any] = {}
    overflowed = []
    for name, weight in state.items():
        key = (weight.data_ptr(), weight.shape)
        if key not in known:
            known[key] = weight.to(dtype) if weight.is_floating_point() else weight
            if dtype == torch.float16 and weight.isfinite().all() and not known[key].isfinite().all():
                overflowed.append(name)
    return {name: known[weight.data_ptr(), weight.shape] for name, weight in state.items()}, overflowed


def describe_overflow(names: list[str], kept: torch.dtype) -> Finding:
    """The warning M523 for weights that exceed the range of float16, so that another format is saved."""
    return Finding(
        "M523",
        f"the model is saved in {str(kept).removeprefix('torch.')}, not in float16",
        why=f"weights of {names[0]}{f' and {len(names) - 1} others' if len(names) > 1 else ''} are beyond 65,504, the "
        "largest number of float16",
        fix="write `model.save_dtype: bfloat16`, which has a larger range",
        severity="warning",
    )
