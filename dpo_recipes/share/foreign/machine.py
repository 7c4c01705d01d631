"""Precision, quantization, and how a job is spread over devices."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from dpo_recipes.recipe.paths import exists
from dpo_recipes.share.foreign.config import Key
from dpo_recipes.share.foreign.draft import Draft, Keys
from dpo_recipes.share.foreign.values import NOTHING, WrongValue, flag, number, text, whole

_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "float": "float32", "half": "float16"}
_STAGE = re.compile(r"z(?:ero)?[-_]?(?:stage)?[-_]?([0-3])(?![0-9])", re.IGNORECASE)


def dtype_of(value: Any) -> str:
    """The name of a precision: `bfloat16` for `torch.bfloat16` and `bf16`. Raises `WrongValue`."""
    name = text(value).removeprefix("torch.").strip().lower()
    name = _DTYPES.get(name, name)
    if name not in ("auto", "float32", "bfloat16", "float16"):
        raise WrongValue("float32, bfloat16, float16 or auto")
    return name


def map_precision(keys: Keys, dtype_names: tuple[str, ...], default: str, why: str = "") -> None:
    """`model.dtype` from the switches `bf16` and `fp16`, or else from the precision of the weights."""
    draft, to = keys.draft, "model.dtype"
    switches = {"bf16": "bfloat16", "fp16": "float16"}
    on = [name for name in switches if keys.get(name, _auto_or_flag) is True]
    name = next((name for name in dtype_names if keys.has(name)), None)
    weights = keys.get(name, dtype_of) if name else None
    if on:
        draft.put(to, switches[on[0]], keys.key(on[0]), note=f"{on[0]}: mixed precision")
        if name and weights not in (None, switches[on[0]], "auto", "float32"):
            keys.derive([name], to, note=f"`{on[0]}` decides the precision of the passes")
        elif name:
            keys.derive([name], to, note="the precision of the weights follows from that of the passes")
    elif name and weights is not None:
        draft.put(to, weights, keys.key(name))
    else:
        draft.default(to, default, why)
    given = [*switches, *dtype_names]
    keys.derive([each for each in given if keys.has(each) and each not in (*on, name)], to)


def _auto_or_flag(value: Any) -> bool:
    return False if isinstance(value, str) and value.lower() == "auto" else flag(value)


def map_bitsandbytes(keys: Keys, *, double: bool | None, double_name: str = "use_bnb_nested_quant") -> None:
    """`model.quantization` from transformers' switches."""
    draft = keys.draft
    names = ("load_in_4bit", "load_in_8bit")
    bits = 4 if keys.get("load_in_4bit", flag) else 8 if keys.get("load_in_8bit", flag) else None
    further = ("bnb_4bit_quant_type", double_name, "bnb_4bit_use_double_quant", "bnb_4bit_compute_dtype")
    if bits is None:
        keys.derive(names, "model.quantization", note="no quantization")
        keys.derive(further, "model.quantization", note="the base is not quantized")
        return
    draft.put("model.quantization.bits", bits, keys.key("load_in_4bit" if bits == 4 else "load_in_8bit"))
    keys.derive(names, "model.quantization.bits")
    if bits == 8:
        keys.derive(further, "model.quantization", note="with 8 bits it has no effect")
        return
    if not keys.map("bnb_4bit_quant_type", "model.quantization.quant_type"):
        draft.default("model.quantization.quant_type", "nf4")
    used = next((name for name in (double_name, "bnb_4bit_use_double_quant") if keys.has(name)), None)
    if used:
        keys.map(used, "model.quantization.double_quant")
    elif double is not None:
        draft.default("model.quantization.double_quant", double)
    compute = keys.get("bnb_4bit_compute_dtype", dtype_of)
    if compute is not None:
        draft.put("model.quantization.compute_dtype", compute, keys.key("bnb_4bit_compute_dtype"))


def map_sharding(keys: Keys) -> None:
    """`launch.strategy` and `offload` from the settings of DeepSpeed and FSDP."""
    draft = keys.draft
    if keys.has("deepspeed") and str(keys.data["deepspeed"]).strip().lower() not in (*NOTHING, "false"):
        _map_deepspeed(keys, draft)
    else:
        keys.derive(["deepspeed"], "launch.strategy", note="no DeepSpeed")
    value = keys.data.get("fsdp")
    is_on = keys.has("fsdp") and str(value).strip().lower() not in (*NOTHING, "false", "[]", "no")
    has_config = isinstance(keys.data.get("fsdp_config"), dict) and bool(keys.data["fsdp_config"])
    if not draft.has("launch.strategy") and (is_on or (has_config and "fsdp" not in keys.data)):
        found = keys.under("fsdp") if is_on else keys.under("fsdp_config")[:1]
        draft.put("launch.strategy", "fsdp", *found)
        offloads = "offload" in str(value).lower() or keys.sub("fsdp_config").get("offload_params", flag, False)
        if offloads:
            names = ["fsdp"] if "offload" in str(value).lower() else ["fsdp_config"]
            draft.put("launch.offload", "all", *[key for name in names for key in keys.under(name)][:1])
    elif "fsdp" in keys.data:
        keys.derive(["fsdp"], "launch.strategy")


def _map_deepspeed(keys: Keys, draft: Draft) -> None:
    value = keys.data["deepspeed"]
    settings = value if isinstance(value, dict) else _settings_in(str(value), draft)
    found = keys.under("deepspeed")
    stage, offload = _zero_of(settings, str(value) if isinstance(value, str) else "")
    if stage is None:
        note = "the stage of ZeRO is not known from the name of the file; the device decides"
        keys.derive(["deepspeed"], "launch.strategy", note=note)
        return
    strategy = "ddp" if stage == 0 else f"deepspeed-zero{stage}"
    draft.put("launch.strategy", strategy, *found)
    if offload and stage > 0:
        draft.put("launch.offload", offload, *found)


def _zero_of(settings: dict[str, Any], name: str) -> tuple[int | None, str | None]:
    """The stage of ZeRO and what is offloaded, from the settings or else from the name of their file."""
    zero = settings.get("zero_optimization")
    if isinstance(zero, dict):
        try:
            stage = whole(zero.get("stage", 0))
        except WrongValue:
            return None, None
        devices = {
            part: str((zero.get(f"offload_{part}") or {}).get("device", "none"))
            for part in ("param", "optimizer")
            if isinstance(zero.get(f"offload_{part}") or {}, dict)
        }
        moved = {part for part, device in devices.items() if device not in ("none", "")}
        kind = "all" if "param" in moved else "optimizer" if moved else None
        return (stage if stage in (0, 1, 2, 3) else None), kind
    match = _STAGE.search(Path(name).name)
    if match is None:
        return None, None
    stage = int(match[1])
    kind = None if "offload" not in name.lower() and "cpu" not in name.lower() else "all" if stage == 3 else "optimizer"
    return stage, kind


def _settings_in(name: str, draft: Draft) -> dict[str, Any]:
    if name.lstrip().startswith("{"):
        try:
            found = json.loads(name)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}
    for folder in (draft.config.folder, Path()):
        path = folder / name
        if name.endswith(".json") and exists(path) and path.is_file() and path.stat().st_size < 1_000_000:
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError):
                return {}
            return found if isinstance(found, dict) else {}
    return {}


def map_timeout(keys: Keys, name: str = "ddp_timeout") -> None:
    """`launch.timeout_minutes` from seconds."""
    seconds = keys.get(name, number)
    if seconds is not None and seconds > 0:
        keys.draft.put("launch.timeout_minutes", seconds / 60, keys.key(name), note=f"{seconds:g} seconds")


def known_files(draft: Draft, path: str) -> Path | None:
    """A local file or folder that a foreign file names, relative to the current folder or to its own; None if there is
    none."""
    for folder in (Path(), draft.config.folder):
        candidate = folder / path
        if exists(candidate):
            return candidate
    return None


def first_key(keys: Keys, *names: str) -> Key | None:
    """The first of these keys that has a value."""
    return next((keys.key(name) for name in names if keys.has(name)), None)
