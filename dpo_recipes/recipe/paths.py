"""Which paths in a recipe are files here, and which are names on a hub.

A path in a recipe is relative to the file it is written in, one from `--set` to the current folder, so a
recipe means the same from wherever it is started. What is resolved here is absolute afterwards.
"""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from dpo_recipes.recipe.compose import Composed
from dpo_recipes.recipe.load import DataPath

DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz", ".json.gz", ".csv.gz")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def looks_local(path: str) -> bool:
    """Whether a path is a file's or folder's by its form alone: it starts like one, or ends like one."""
    return (
        path.startswith(("./", "../", "/", "~"))
        or path in (".", "..")
        or path.endswith((*DATA_SUFFIXES, ".gguf", ".jinja"))
    )


def is_hub_id(path: str) -> bool:
    """Whether a path has the form of a hub id: `name` or `owner/name`."""
    return _HUB_ID.fullmatch(path) is not None


def exists(path: Path) -> bool:
    """Whether there is something at `path` that can be seen; also false for a name no file can have."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def resolve_paths(composed: Composed) -> Composed:
    """The same recipe with local paths made absolute. What is not a local path stays as it is."""
    data, origins = copy.deepcopy(composed.data), dict(composed.origins)
    for at in _path_fields(data):
        parent, key = _parent(data, at), at[-1]
        origin = composed.origin_of(at)
        value = parent[key]
        if not isinstance(value, str) or not value or origin is None or value.startswith("pypi:"):
            continue
        try:
            candidate = (origin.folder / Path(value).expanduser()).resolve()
        except (OSError, RuntimeError, ValueError):  # no such user's home, links in a circle, a NUL character
            continue
        if looks_local(value) or (at != ("chat_template",) and exists(candidate)):
            parent[key] = str(candidate)
            origins[at] = replace(origin, kind="resolved")
    return replace(composed, data=data, origins=origins)


def _path_fields(data: dict[str, Any]) -> list[DataPath]:
    fields: list[DataPath] = []
    if isinstance(data.get("model"), dict):
        fields.append(("model", "path"))
    section = data.get("data")
    if isinstance(section, dict):
        evaluation = section.get("eval")
        held_out = evaluation.get("sources") if isinstance(evaluation, dict) else None
        for prefix, sources in ((("data", "train"), section.get("train")), (("data", "eval", "sources"), held_out)):
            if isinstance(sources, list):
                fields += [(*prefix, i, "path") for i, source in enumerate(sources) if isinstance(source, dict)]
    fields.append(("chat_template",))
    return [at for at in fields if at[-1] in _parent(data, at)]


def _parent(data: Any, at: DataPath) -> Any:
    for step in at[:-1]:
        data = data[step]
    return data
