"""Loads the weights of a model that is evaluated, and identifies them without loading them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dpo_recipes.cache import file_digest, remembered
from dpo_recipes.finished_run import FinishedRun
from dpo_recipes.model.build import load_base
from dpo_recipes.model.loading import loading_errors, quiet_loading
from dpo_recipes.model.saved import load_whole
from dpo_recipes.model.sources import ModelLocation, loaded_commit

_NO_WEIGHTS = (".md", ".txt", ".html", ".gitattributes")


def identify(location: ModelLocation) -> Any:
    """Plain data that differ if the files of a model differ; None if they are unknown."""
    path = Path(location.path)
    if not path.is_absolute():
        commit = loaded_commit(location)
        return None if commit is None else [location.path, commit]
    try:
        if location.gguf_path is not None:
            return [remembered("blake2b", location.gguf_path, file_digest)]
        files = sorted(file for file in path.iterdir() if file.is_file() and file.suffix not in _NO_WEIGHTS)
        return [[file.name, remembered("blake2b", file, file_digest)] for file in files]
    except OSError:  # the base of a whole model is gone: loading it says so
        return None


def load_run(run: FinishedRun, device: str, *, trust_remote_code: bool) -> Any:
    """The model that a run has saved. Raises `RunError` M504."""
    with quiet_loading():
        return run.load(device=device, trust_remote_code=trust_remote_code).policy


def load_run_base(
    run: FinishedRun, location: ModelLocation, tokenizer: Any, device: str, dtype: str, *, trust_remote_code: bool
) -> Any:
    """The base of a run before training. Raises `RunError` M504 and M509."""
    with quiet_loading():
        model = load_base(run.recipe, location, tokenizer, device, dtype, trust_remote_code=trust_remote_code)
    if run.recipe.model.adapter is None:  # it was loaded in 32 bits for training
        model = model.to(getattr(torch, dtype))
    return model.eval()


def load_location(location: ModelLocation, config: Any, **how: Any) -> Any:
    """A whole model. Raises `RunError` M504 and M509."""
    with loading_errors("the model", location), quiet_loading():
        return load_whole(location, config, **how).eval()


def load_adapter(base: Callable[[], Any], folder: Path) -> Any:
    """The adapter in a folder on its base. Raises `RunError` M504."""
    from peft import PeftModel

    model = base()
    with loading_errors("the adapter", ModelLocation(str(folder))), quiet_loading():
        return PeftModel.from_pretrained(model, folder).eval()
