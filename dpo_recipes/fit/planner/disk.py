"""What a job needs on disk."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from dpo_recipes.errors import DpoRecipeError, Finding, RunError
from dpo_recipes.fit.planner.optimizers import optimizer_cost
from dpo_recipes.fit.simulation.meta_model import MetaModel, Weights
from dpo_recipes.model.build import stored_dtype
from dpo_recipes.model.sources import ModelLocation
from dpo_recipes.objectives import objective_of
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.trials import expand

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def estimate_disk(meta_model: MetaModel, weights: Weights) -> dict[str, int | None]:
    """Bytes of the base as it is stored (None if that is unknown), a checkpoint, all of them, and the model; of a sweep
    also those of all runs together."""
    recipe = meta_model.recipe
    adapter = recipe.model.adapter
    state = int(weights.num_trainable * optimizer_cost(recipe.training.optimizer, meta_model.device).state)
    model = weights.adapter
    if adapter is None or adapter.save_as == "merged" or (adapter.save_as == "auto" and meta_model.location.gguf_file):
        unpacked = str(meta_model.weight_dtype).removeprefix("torch.")
        auto = stored_dtype(meta_model.config, meta_model.location, unpacked)
        dtype = auto if recipe.model.save_dtype == "auto" else recipe.model.save_dtype
        model = weights.num_base * ITEM_BYTES[dtype]
    has_live_reference = objective_of(recipe).reference(recipe.objective) == "live"
    checkpoint = weights.trainable_bytes * (1 + has_live_reference) + state
    saving = recipe.checkpoints
    # The oldest one is removed only when the newest is complete.
    kept = saving.save_total_limit + 1 + bool(saving.keep_best) if saving.save_steps or saving.save_minutes else 1
    disk = {
        "base": stored_bytes(meta_model.location),
        "checkpoint": checkpoint,
        "checkpoints": checkpoint * kept,
        "model": model,
    }
    if recipe.sweep is not None:
        disk["sweep"] = (disk["checkpoints"] + model) * num_kept_runs(recipe)
    return disk


def num_kept_runs(recipe: Recipe) -> int:
    """The number of runs of a sweep that have a model or checkpoints on the disk at the same time, at most."""
    sweep = recipe.sweep
    assert sweep is not None, "the recipe has a sweep"
    num_trials = len(expand(recipe))
    if sweep.keep == "all":
        return num_trials * sweep.seeds
    # The best so far, of each trial if the mean over its seeds is still open, and those that are being executed.
    return min(num_trials * sweep.seeds, (num_trials if sweep.seeds > 1 else 1) + sweep.parallel)


def check_sweep_space(disk: dict[str, int | None], folder: Path) -> list[Finding]:
    """A warning where the runs of a sweep will not all fit on the disk of `folder`, which may not exist yet."""
    needed, there = disk.get("sweep") or 0, next(path for path in (folder, *folder.parents) if path.exists())
    free_bytes = shutil.disk_usage(there).free
    if free_bytes >= needed:
        return []
    return [
        Finding(
            "T602",
            f"there is not enough space for all runs of the sweep in {folder}",
            why=f"their models and checkpoints take {needed / 1e9:.2f} GB; {free_bytes / 1e9:.2f} GB are free",
            fix="free some space, choose another folder with `--set output_dir=...`, or keep the model of the best run "
            "only, with `sweep.keep: best`",
            severity="warning",
        )
    ]


def check_space(disk: dict[str, int | None], folder: Path) -> list[Finding]:
    """A warning where not all checkpoints and the model will fit on the disk of `folder`.

    Raises `RunError` T602 where not even one checkpoint and the model do.
    """
    free_bytes = shutil.disk_usage(folder).free
    checkpoint, checkpoints, model = (disk[name] or 0 for name in ("checkpoint", "checkpoints", "model"))
    if free_bytes >= checkpoints + model:
        return []
    finding = Finding(
        "T602",
        f"there is not enough space for the run in {folder}",
        why=f"the model takes {model / 1e9:.2f} GB, a checkpoint {checkpoint / 1e9:.2f} GB and all that are kept "
        f"{checkpoints / 1e9:.2f} GB; {free_bytes / 1e9:.2f} GB are free",
        fix="free some space, choose another folder with `--set output_dir=...`, or keep fewer checkpoints with "
        "`checkpoints.save_total_limit`",
    )
    if free_bytes < checkpoint + model:
        raise RunError(finding)
    return [replace(finding, severity="warning")]


def stored_bytes(location: ModelLocation) -> int | None:
    """The size of a base's weight files, from a folder or from the hub's file list; nothing is downloaded."""
    if location.gguf_path is not None:
        return location.gguf_path.stat().st_size
    if Path(location.path).is_absolute():
        return _in_folder(Path(location.path))
    from huggingface_hub import get_safetensors_metadata, try_to_load_from_cache

    cached = try_to_load_from_cache(location.path, "config.json", revision=location.revision)
    known = _in_folder(Path(cached).parent) if isinstance(cached, str) else None
    if known:
        return known
    try:
        metadata = get_safetensors_metadata(location.path, revision=location.revision)
    except DpoRecipeError:  # a requested stop that came in the middle
        raise
    except Exception:  # no network or no safetensors: the plan continues without this figure
        return None
    ends = (
        max((tensor.data_offsets[1] for tensor in file.tensors.values()), default=0)
        for file in metadata.files_metadata.values()
    )
    return sum(ends)


def _in_folder(folder: Path) -> int | None:
    files = [path for pattern in ("*.safetensors", "*.bin") for path in folder.glob(pattern)]
    return sum(path.stat().st_size for path in files) or None
