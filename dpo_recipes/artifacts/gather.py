"""Finds the files that a recipe consists of: its parents, the recipes of its steps, templates, data and its lock."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from dpo_recipes.artifacts.manifest import NeedKind
from dpo_recipes.errors import SharingError, Where
from dpo_recipes.recipe.compose import Composed, compose
from dpo_recipes.recipe.load import DataPath, load_file
from dpo_recipes.recipe.paths import DATA_SUFFIXES, exists, is_inline_template, is_url, looks_local
from dpo_recipes.recipe.references import is_reference
from dpo_recipes.shipped import LOCK_SUFFIX

_START = "start"
"""The section of a chain with what its first round begins with, by names of steps."""
_PATH_KEYS = {"path", "chat_template", "model", "function", "models", "against", "data", _START}
"""The last keys of fields that can have the path of a local file or folder."""


class LocalPath(NamedTuple):
    """A local file or folder that a recipe names."""

    path: Path
    """Absolute, without links resolved."""
    kind: NeedKind
    where: Where


@dataclass
class Gathered:
    """The files of a recipe, with absolute paths."""

    main: Path
    composed: Composed
    """That of the main file."""
    recipes: list[Path] = field(default_factory=list)
    """With the main one first."""
    lock: Path | None = None
    templates: dict[Path, Where] = field(default_factory=dict)
    named: list[LocalPath] = field(default_factory=list)
    """Data, models, adapters and functions."""

    @property
    def root(self) -> Path:
        """The folder that contains all of them."""
        folders = [path.parent for path in [*self.recipes, *self.templates, *(local.path for local in self.named)]]
        return Path(os.path.commonpath(folders))


def gather(path: Path) -> Gathered:
    """The files of a recipe or a chain.

    Raises the errors of `compose`, and `SharingError` S201 for a recipe that is a link to another folder.
    """
    main = path.resolve()
    found = Gathered(main, compose(main))
    waiting, seen = [main], set[Path]()
    while waiting:
        recipe = waiting.pop()
        if recipe in seen:
            continue
        seen.add(recipe)
        found.recipes += [each for each in _with_parents(recipe) if each not in found.recipes]
        composed = compose(recipe)
        for at, value in _texts(composed.data):
            waiting += _look_at(found, composed, at, value)
    lock = main.with_name(main.stem + LOCK_SUFFIX)
    found.lock = lock if lock.is_file() else None
    return found


def data_files(path: Path) -> list[Path]:
    """The data files at a path: the file itself, or those anywhere in a folder."""
    if path.is_file():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
    return [file for file in files if file.name.endswith(DATA_SUFFIXES)]


def _look_at(found: Gathered, composed: Composed, at: DataPath, value: str) -> list[Path]:
    """Add the file that a value names, if it names one. Returns it if it is a recipe."""
    key = _key(at)
    origin = composed.origin_of(at)
    if origin is None or is_url(value) or is_reference(value) or value.startswith("pypi:"):
        return []
    try:
        path = Path(os.path.normpath(origin.folder / Path(value).expanduser()))
        path.exists()
    except (OSError, RuntimeError, ValueError):  # an unknown user's home, too long, or a NUL character: no file's name
        return []
    is_recipe = key == "recipe" or (key == "data" and value.endswith((".yaml", ".yml")))
    if is_recipe:
        return [path] if path.is_file() else []
    if key == "chat_template":
        if value.endswith(".jinja") and not is_inline_template(value):
            found.templates[path] = origin.where
    elif key in _PATH_KEYS and (looks_local(value) or key == "function" or exists(path)):
        file = path.with_name(path.name.rpartition(":")[0]) if key == "function" else path
        local = LocalPath(file, _kind(at, key, value), origin.where)
        if all(local.path != each.path for each in found.named):
            found.named.append(local)
    return []


def _key(at: DataPath) -> str:
    """The last key of a path. A key of `set` or of a sweep has a path of its own, such as `model.path`."""
    if at[0] == _START:
        return _START
    name = next(step for step in reversed(at) if isinstance(step, str))
    return name.rpartition(".")[2]


def _kind(at: DataPath, key: str, value: str) -> NeedKind:
    names = ".".join(step for step in at if isinstance(step, str))
    if key == "function":
        return "function"
    if key == _START:
        return "data" if value.endswith(DATA_SUFFIXES) else "model"
    if names.endswith("adapter.path"):
        return "adapter"
    return "model" if names.endswith("model.path") or key in ("model", "models", "against") else "data"


def _with_parents(recipe: Path) -> Iterator[Path]:
    """A recipe and its parents, which `compose` has read without errors."""
    path: Path | None = recipe
    while path is not None:
        if path.resolve() != path.parent.resolve() / path.name:
            raise SharingError.of(
                "S201",
                f"{path} is a link to {path.resolve()}",
                where=Where(str(path)),
                why="paths in a recipe are relative to its real folder, which an artifact cannot keep for a link",
                fix="replace the link by the file",
            )
        yield path
        parent = load_file(path).data.get("extends")
        path = Path(os.path.normpath(path.parent / parent)) if isinstance(parent, str) else None


def _texts(value: Any, at: DataPath = ()) -> Iterator[tuple[DataPath, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, (*at, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, (*at, index))
    elif isinstance(value, str) and any(isinstance(step, str) for step in at):
        yield at, value
