"""Chooses the device of a run, its precision and its attention code path."""

from __future__ import annotations

import importlib.util

import psutil
import torch

from dpo_recipes.errors import RunError
from dpo_recipes.hardware.machine import cpu_flags, cpu_name
from dpo_recipes.hardware.profiles import Device, cpu_has_bf16_matrix_units
from dpo_recipes.hardware.rules import best_dtype, supports_attention, supports_dtype
from dpo_recipes.recipe.schema import Recipe


def choose_device(wanted: str) -> str:
    """`cuda`, `mps` or `cpu`. Raises `RunError` M507 if the requested device is not available."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return next(device for device, there in present.items() if there)
    if not present[wanted]:
        raise RunError.of(
            "M507",
            f"`hardware.device` is {wanted}, but there is none",
            why=f"torch {torch.__version__} sees {', '.join(d for d, there in present.items() if there)}",
            fix="write `device: auto`; `dpo-recipe doctor` shows the devices of this machine",
        )
    return wanted


def describe_device(device: str) -> Device:
    """The device of this kind that torch sees, as a `hardware` description for the rules."""
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        capability = (properties.major, properties.minor)
        return Device("cuda", properties.name, properties.total_memory, compute_capability=capability)
    memory_bytes = psutil.virtual_memory().total
    if device == "mps":
        return Device("mps", "Apple GPU", memory_bytes)
    return Device("cpu", cpu_name(), memory_bytes, has_bf16_matrix_units=cpu_has_bf16_matrix_units(cpu_flags()))


def choose_dtype(recipe: Recipe, device: str, model_type: str | None = None) -> str:
    """The precision of forward and backward: `float32`, `bfloat16` or `float16`.

    `auto` is the fastest that hardware.rules accepts; `model_type` is that of the model's configuration. Raises
    `RunError` M508 if the precision does not work on the device.
    """
    wanted, described = recipe.model.dtype, describe_device(device)
    if wanted == "auto":
        return best_dtype(described, model_type=model_type)
    verdict = supports_dtype(described, wanted, model_type=model_type)
    if not verdict.allowed:
        raise RunError.of("M508", f"{wanted} does not work on {described.name}", why=verdict.why, fix=verdict.fix)
    return wanted


def choose_attention(wanted: str, device: str, dtype: str) -> str | None:
    """The attention code path of transformers; None for its default, which is SDPA if the model supports it.

    `auto` uses flash attention if its library is installed and hardware.rules accepts it. Raises `RunError` M508 if the
    code path does not work on the device.
    """
    installed = frozenset({"flash_attn"} if importlib.util.find_spec("flash_attn") else ())
    described = describe_device(device)
    if wanted == "auto":
        verdict = supports_attention(described, "flash_attention_2", dtype, installed=installed)
        return "flash_attention_2" if installed and verdict.outcome == "yes" else None
    verdict = supports_attention(described, wanted, dtype, installed=installed)
    if not verdict.allowed:
        raise RunError.of("M508", f"{wanted} does not work on {described.name}", why=verdict.why, fix=verdict.fix)
    return wanted
