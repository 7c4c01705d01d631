"""The files of a finished run that an artifact may have, without paths of the machine that made them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo_recipes.artifacts.content import replace_home_paths
from dpo_recipes.artifacts.manifest import ADAPTER_FOLDER, RESULTS_FOLDER
from dpo_recipes.artifacts.verify import ADAPTER_FILES, RESULT_FILES
from dpo_recipes.cache import cache_folder
from dpo_recipes.errors import SharingError
from dpo_recipes.run_dir import MODEL_FOLDER, RunDirectory


@dataclass(frozen=True)
class RunToPack:
    """A finished run whose results are packed."""

    run: RunDirectory
    recipe_name: str
    saves_adapter: bool


def result_files(run: RunToPack) -> Iterator[tuple[str, bytes]]:
    """Results and report, by their names in the artifact."""
    for name in RESULT_FILES:
        path = run.run.path / name
        if path.is_file():
            yield f"{RESULTS_FOLDER}/{name}", _cleaned(path.read_text(encoding="utf-8"), run.run.path).encode()


def adapter_files(run: RunToPack, base: str) -> Iterator[tuple[str, Path | bytes]]:
    """The adapter that a run has saved. `base` is the base of the recipe, for a reader of its configuration.

    Raises `SharingError` S205 if the run has saved no adapter.
    """
    folder = run.run.path / MODEL_FOLDER
    if not run.saves_adapter or not folder.is_dir():
        raise SharingError.of(
            "S205",
            f"the run {run.run.path.name} has no adapter to pack",
            why="it has saved a whole model" if folder.is_dir() else "its folder `model` was removed",
            fix="leave `--with-adapter` out; whole models belong on the hub",
        )
    yield from adapter_folder(folder, ADAPTER_FOLDER, base)


def adapter_folder(folder: Path, target: str, base: str) -> Iterator[tuple[str, Path | bytes]]:
    """The files of an adapter in a folder, by their names below `target`. Raises `SharingError` S205."""
    if not (folder / "adapter_model.safetensors").is_file():
        raise SharingError.of(
            "S205",
            f"there is no adapter_model.safetensors in {folder}",
            why="adapters are packed as safetensors only, because other formats can run code when they are opened",
            fix="save the adapter again with a current version of peft",
        )
    for name in ADAPTER_FILES:
        path = folder / name
        if not path.is_file():
            continue
        if name == "adapter_config.json":
            config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if Path(str(config.get("base_model_name_or_path"))).is_absolute():
                config["base_model_name_or_path"] = base
            yield f"{target}/{name}", (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()
        elif name == "tokenizer_config.json":
            yield f"{target}/{name}", _cleaned(path.read_text(encoding="utf-8"), folder).encode()
        else:
            yield f"{target}/{name}", path


def _cleaned(text: str, folder: Path) -> str:
    """A text in which the folder of the run, the cache and home folders have names that mean the same elsewhere."""
    known = {str(folder): "RUN", str(cache_folder()): "CACHE"}
    for path in sorted(known, key=len, reverse=True):
        text = re.sub(rf"{re.escape(path)}(?![\w.-])", known[path], text)
    return replace_home_paths(text)
