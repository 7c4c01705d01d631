"""Saves the tuned model as safetensors with tokenizer, template and card.

The files are written into a temporary folder, which is renamed when it is complete.
"""

from __future__ import annotations

import json
import math
import shutil
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial as partial_function
from pathlib import Path
from typing import Any

import torch

from dpo_recipes.errors import Finding, RunError
from dpo_recipes.export.beside import companions, turn_end
from dpo_recipes.export.merge import merge
from dpo_recipes.export.precision import cast, describe_overflow, save_dtype
from dpo_recipes.model.adapters import AT_ZERO
from dpo_recipes.model.build import ModelBundle
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.run_dir import MODEL_FOLDER, follow_umask
from dpo_recipes.run_result import RunResult, SavedKind

_MODULE_NAMES = ("exclude_modules", "modules_to_save", "target_modules")


@dataclass(frozen=True)
class SavedModel:
    """The folder and the form of a saved model."""

    folder: Path
    kind: SavedKind
    dtype: str
    """The number format of its weights."""
    findings: list[Finding] = field(default_factory=list)


def save_model(
    model: Any,
    bundle: ModelBundle,
    recipe: Recipe,
    run_dir: Path,
    result: RunResult,
    state: dict[str, Any] | None = None,
) -> SavedModel:
    """Save to `run_dir/model`, completely or not at all. The model is changed only if an adapter is merged into it.

    `state` has the weights if the model itself holds only its shard of them. Raises `RunError` T602 if there is not
    enough space before saving starts.
    """
    target, partial = run_dir / MODEL_FOLDER, run_dir / (MODEL_FOLDER + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    kind = saved_kind(recipe, bundle)
    _check_space(model, run_dir, kind, save_dtype(recipe, bundle).itemsize)
    findings: list[Finding] = []
    if kind == "adapter":
        dtype = "float32"
        _save_adapter(model, recipe, partial, state)
    else:
        if kind == "merged":
            save_adapter = partial_function(_save_adapter, model, recipe, state=state)
            model, state = merge(model, recipe, bundle, run_dir, state, save_adapter), None
        dtype = _save_whole(model, bundle, recipe, partial, state, findings)
    _check_saved(partial)
    for _, save in companions(partial, bundle, recipe, result.with_changes(saved=kind, saved_dtype=dtype)):
        save()
    shutil.rmtree(target, ignore_errors=True)  # left by a worker that was killed before it wrote result.json
    follow_umask(partial)
    partial.rename(target)
    return SavedModel(target, kind, dtype, findings)


def _save_whole(
    model: Any,
    bundle: ModelBundle,
    recipe: Recipe,
    folder: Path,
    state: dict[str, Any] | None,
    findings: list[Finding],
) -> str:
    """Save a whole model with its original configuration values. Returns the format of its weights."""
    for config, name, rate in bundle.dropout_rates:
        setattr(config, name, rate)
    end = bundle.tokenizer.convert_tokens_to_ids(turn_end(bundle) or bundle.tokenizer.eos_token)
    model.config.get_text_config().eos_token_id = end
    own, dtype = model.dtype, save_dtype(recipe, bundle)
    if any(weight.is_floating_point() and weight.dtype != dtype for weight in model.parameters()):
        weights, overflowed = cast(model.state_dict() if state is None else state, dtype)
        if overflowed:
            findings.append(describe_overflow(overflowed, own))
            dtype = own
        else:
            state = weights
    model.save_pretrained(folder, safe_serialization=True, state_dict=state)
    model.config.dtype = dtype  # transformers has written the type of the model in memory
    model.config.save_pretrained(folder)
    model.config.dtype = own
    return str(dtype).removeprefix("torch.")


def _save_adapter(model: Any, recipe: Recipe, folder: Path, state: dict[str, Any] | None = None) -> None:
    """Save the trained adapter alone, in a form that fits the original base.

    An adapter that was initialized from the base's weights (PiSSA, OLoRA) is saved as the difference to its initial
    state, which the model has as the reference `ref`; its rank doubles.
    """
    adapter = recipe.model.adapter
    # The rows of new tokens are saved with the adapter; peft would add both embedding matrices whole.
    if adapter is None or adapter.path is not None or adapter.init in (*AT_ZERO, "loftq"):
        model.save_pretrained(folder, selected_adapters=["default"], save_embedding_layers=False, state_dict=state)
    else:
        _save_difference(model, folder, state)
    _order_module_names(folder / "adapter_config.json")


def _order_module_names(path: Path) -> None:
    """Sort the names of modules in an adapter's configuration: peft 0.21 keeps them in sets, whose order differs in
    each process, so that equal adapters would be saved as different files."""
    plain = json.loads(path.read_text(encoding="utf-8"))
    names = {key: sorted(plain[key]) for key in _MODULE_NAMES if isinstance(plain.get(key), list)}
    path.write_text(json.dumps({**plain, **names}, indent=2, sort_keys=True), encoding="utf-8")


def _save_difference(model: Any, folder: Path, state: dict[str, Any] | None) -> None:
    """Save the adapter minus its reference as one of twice the rank: B A - B0 A0 = [B, -B0] [A; A0].

    peft 0.21 does this too (`path_initial_model_for_weight_conversion`), but it needs the weights in the model itself
    and omits modules that were trained whole.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    tuned, start = (
        get_peft_model_state_dict(model, state_dict=state, adapter_name=name, save_embedding_layers=False)
        for name in ("default", "ref")
    )
    for name, weight in tuned.items():
        if ".lora_A." in name:
            tuned[name] = torch.cat([weight, start[name]], dim=0)
        elif ".lora_B." in name:
            tuned[name] = torch.cat([weight, -start[name]], dim=1)
    config = deepcopy(model.peft_config["default"])
    config.r, config.inference_mode = 2 * config.r, True
    config.lora_alpha *= math.sqrt(2) if config.use_rslora else 2  # the scale is alpha / r, or alpha / sqrt(r)
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    save_file({name: weight.contiguous() for name, weight in tuned.items()}, folder / "adapter_model.safetensors")


def saved_kind(recipe: Recipe, bundle: ModelBundle) -> SavedKind:
    """The form in which a run saves its model: `adapter`, `merged` (the base with the adapter in it) or `full`."""
    adapter = recipe.model.adapter
    if adapter is None:
        return "full"
    if adapter.save_as != "auto":
        return adapter.save_as
    return "merged" if bundle.location.gguf_file else "adapter"


def _check_saved(folder: Path) -> None:
    """Check that weights were saved: libraries that do not find weights by name save none and raise no error."""
    from safetensors import safe_open

    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            if not list(file.keys()):
                raise RuntimeError(f"{path.name} was saved without weights")


def _check_space(model: Any, run_dir: Path, kind: str, itemsize: int) -> None:
    if kind == "adapter":
        needed_bytes = sum(p.numel() * p.element_size() for name, p in model.named_parameters() if "lora_" in name)
    else:
        needed_bytes = sum(p.numel() * itemsize for name, p in model.named_parameters() if "lora_" not in name)
    free_bytes = shutil.disk_usage(run_dir).free
    if free_bytes < needed_bytes * 1.05:
        raise RunError.of(
            "T602",
            f"not enough space for the model in {run_dir}",
            why=f"it needs {needed_bytes / 1e6:.0f} MB, {free_bytes / 1e6:.0f} MB are free",
            fix="free some space and run again",
        )
