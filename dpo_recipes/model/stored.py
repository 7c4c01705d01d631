"""Reads the names, shapes and types of the weights in a folder from safetensors headers, without loading them."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from dpo_recipes.errors import Finding, RunError, in_one_line
from dpo_recipes.model.missing_weights import name_some

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
           "I32": torch.int32, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool}  # fmt: skip


def stored_weights(folder: Path) -> dict[str, torch.Tensor] | None:
    """The weights of a local model as tensors on the `meta` device; None if they are not safetensors.

    Raises `RunError` M516 if the folder lacks a shard that the index names, and M504 if a shard cannot be read.
    """
    if (folder / _SINGLE).is_file():
        return read_header(folder / _SINGLE)
    index = folder / _INDEX
    if not index.is_file():
        return None
    try:
        parts = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise _unreadable(index, error) from error
    absent = [part for part in parts if not (folder / part).is_file()]
    if absent:
        what = f"the model {folder} lacks {name_some(absent, shown=1)}"
        why = f"{_INDEX} names {len(parts)} files, of which {len(absent)} are missing"
        fix = "copy or download the missing files; an interrupted download is the usual cause"
        raise RunError(Finding("M516", what, None, why, fix, at=("model", "path")))
    weights: dict[str, torch.Tensor] = {}
    for part in parts:
        weights.update(read_header(folder / part))
    return weights


def read_header(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of one safetensors file on the `meta` device. Raises `RunError` M504 if it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: _empty(file.get_slice(name)) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def _empty(stored: object) -> torch.Tensor:
    shape, dtype = stored.get_shape(), _DTYPES.get(stored.get_dtype(), torch.uint8)  # pyright: ignore
    return torch.empty(shape, dtype=dtype, device="meta")


def _unreadable(path: Path, error: Exception) -> RunError:
    fix = "copy or download the file again; an interrupted download is the usual cause"
    return RunError.of("M504", f"cannot read {path}", why=in_one_line(error), fix=fix)
