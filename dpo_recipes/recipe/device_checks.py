"""Checks a recipe against the device that it names, so that settings which the device does not support are refused
before anything is loaded. The rules are in `hardware.rules`."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from dpo_recipes.errors import Finding, RecipeError
from dpo_recipes.recipe.compose import Composed
from dpo_recipes.recipe.load import DataPath
from dpo_recipes.recipe.schema import Recipe

if TYPE_CHECKING:  # at run time imported only if a recipe names a device, because the import takes 10 ms
    from dpo_recipes.hardware.profiles import Device
    from dpo_recipes.hardware.rules import Verdict

_BY_KIND = {"cpu": "cpu", "mps": "mps-16gb"}
"""The profile that represents all devices of a kind; CUDA devices differ too much."""


def check_profile(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R330: the profile is unknown; R336: its kind is not that of the device; R315: this machine cannot have the
    device."""
    hardware, at = recipe.hardware, ("hardware", "profile")
    if hardware.profile is not None:
        from dpo_recipes.hardware.profiles import profile

        try:
            kind = profile(hardware.profile).kind
        except RecipeError as error:
            yield replace(error.findings[0], where=composed.where(at))
        else:
            if hardware.device not in ("auto", kind):
                yield Finding(
                    "R336",
                    f"`{hardware.profile}` does not match `device: {hardware.device}`",
                    composed.where(at),
                    f"`hardware.device` is {hardware.device}, but the profile is a {kind} device",
                    "write `device: auto`, or another profile",
                )
    if hardware.device == "mps" and platform.system() != "Darwin":
        yield Finding(
            "R315",
            "this machine has no Apple GPU",
            composed.where(("hardware", "device")),
            f"MPS exists on macOS only; this is {platform.system()}",
            "write `device: auto`",
        )


def check_device(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R314 (error) and R393 (warning): the named device does not fully support the precision, quantization, attention,
    optimizer or torch build, or the memory limits of a Mac are unsuitable."""
    model, device = recipe.model, described_device(recipe)
    if model.attn_implementation == "flash_attention_2" and model.dtype == "float32":
        yield Finding(
            "R314",
            "flash_attention_2 needs a 16-bit dtype",
            composed.where(("model", "attn_implementation")),
            "its kernels exist only for float16 and bfloat16",
            "write `attn_implementation: auto`, or `dtype: auto`",
        )
    if device is None:
        return
    from dpo_recipes.hardware.rules import (
        supports_attention,
        supports_dtype,
        supports_optimizer,
        supports_quantization,
        supports_torch,
    )

    asked: list[tuple[DataPath, str, Verdict]] = []
    if model.dtype != "auto":
        asked.append((("model", "dtype"), model.dtype, supports_dtype(device, model.dtype)))
    if model.quantization is not None:
        bits = model.quantization.bits
        asked.append((("model", "quantization"), f"a base of {bits} bits", supports_quantization(device, bits)))
    if model.attn_implementation != "auto" and model.dtype != "float32":
        attention = model.attn_implementation
        verdict = supports_attention(device, attention, model.dtype)
        asked.append((("model", "attn_implementation"), attention, verdict))
    optimizer = recipe.training.optimizer
    asked.append((("training", "optimizer"), optimizer, supports_optimizer(device, optimizer)))
    named_by = "profile" if recipe.hardware.profile else "device"
    asked.append((("hardware", named_by), "torch from the package index", supports_torch(device)))
    if device.kind == "mps" and platform.system() == "Darwin":
        asked.append((("hardware", named_by), "its memory limit", _mps_limit(device)))
    for at, what, verdict in asked:
        if verdict.outcome != "yes":
            yield _finding(composed, at, what, device.name if recipe.hardware.profile else device.kind, verdict)


def _mps_limit(device: Device) -> Verdict:
    """Whether the environment variables with torch's memory limits keep it within the memory of the Mac."""
    from dpo_recipes.hardware.rules import supports_memory_limit

    ratios: dict[str, float | None] = {}
    for name in ("HIGH", "LOW"):
        try:
            ratios[name] = float(os.environ[f"PYTORCH_MPS_{name}_WATERMARK_RATIO"])
        except (KeyError, ValueError):
            ratios[name] = None
    return supports_memory_limit(device, ratios["HIGH"], ratios["LOW"])


def _finding(composed: Composed, at: DataPath, what: str, device: str, verdict: Verdict) -> Finding:
    refused = not verdict.allowed
    return Finding(
        "R314" if refused else "R393",
        f"{what} does not work on {device}" if refused else f"{what} is doubtful on {device}",
        composed.where(at),
        f"{verdict.why} ({verdict.source})",
        verdict.fix,
        "error" if refused else "warning",
    )


def described_device(recipe: Recipe) -> Device | None:
    """The device that a recipe names by a profile, or by its kind if the kind has a profile; otherwise None."""
    name = recipe.hardware.profile or _BY_KIND.get(recipe.hardware.device)
    if name is None:
        return None
    from dpo_recipes.hardware.profiles import PROFILES

    return PROFILES.get(name)


RULES = (check_profile, check_device)
