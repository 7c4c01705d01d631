"""Which device a run uses and in which precision it computes there."""

from __future__ import annotations

import importlib.util

import torch

from dpo_recipes.errors import RunError
from dpo_recipes.recipe.schema import Recipe


def choose_device(wanted: str) -> str:
    """`cuda`, `mps` or `cpu`. Raises `RunError` M507 when the one that is asked for is not there."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return next(device for device, there in present.items() if there)
    if not present[wanted]:
        raise RunError.of(
            "M507",
            f"`hardware.device` is {wanted}, but there is none",
            why=f"torch {torch.__version__} sees {', '.join(d for d, there in present.items() if there)}",
            fix="write `device: auto`; `dpo-recipe doctor` shows what this machine has",
        )
    return wanted


def choose_dtype(recipe: Recipe, device: str) -> str:
    """The precision of forward and backward: `float32`, `bfloat16` or `float16`.

    `auto` is bfloat16 where the hardware multiplies it (CUDA compute capability 8.0 and up), else float32: on a
    CPU without AMX, bf16 matrix products run at a fifth of fp32's rate. Raises `RunError` M508.
    """
    wanted = recipe.model.dtype
    has_bf16 = device != "cuda" or torch.cuda.get_device_capability()[0] >= 8
    if wanted == "auto":
        return "bfloat16" if device == "cuda" and has_bf16 else "float32"
    if wanted == "bfloat16" and not has_bf16:
        raise RunError.of(
            "M508",
            "this GPU has no bfloat16",
            why=f"{torch.cuda.get_device_name()} is older than Ampere",
            fix="write `dtype: float16` or `dtype: float32`",
        )
    if wanted == "float16" and device != "cuda":
        raise RunError.of(
            "M508",
            f"float16 training does not work on {device}",
            why="its gradient scaler needs CUDA",
            fix="write `dtype: auto`",
        )
    return wanted


def choose_attention(wanted: str, device: str, dtype: str) -> str | None:
    """The attention code path of transformers; none leaves the choice to it, which is SDPA where a model has it.

    `auto` takes flash attention where it can run: its library, a GPU of compute capability 8.0 and 16-bit numbers
    (https://github.com/Dao-AILab/flash-attention).
    """
    if wanted != "auto":
        return wanted
    can_flash = (
        device == "cuda"
        and dtype != "float32"
        and torch.cuda.get_device_capability()[0] >= 8
        and importlib.util.find_spec("flash_attn") is not None
    )
    return "flash_attention_2" if can_flash else None
