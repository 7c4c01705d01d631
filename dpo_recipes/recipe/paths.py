"""Distinguishes local paths in a recipe from hub ids and URLs, and makes local paths absolute.

A relative path in a recipe is relative to the file that contains it, and one from `--set` to the current folder, so a
recipe has the same meaning in whatever folder the command is started.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from dpo_recipes.recipe.compose import Composed
from dpo_recipes.recipe.load import DataPath

_TEXT_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")
DATA_SUFFIXES = (*_TEXT_SUFFIXES, *(f"{suffix}.gz" for suffix in _TEXT_SUFFIXES), ".parquet", ".arrow")
URL_SCHEMES = ("https", "http", "s3", "gs")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def looks_local(path: str) -> bool:
    """Whether a path has the form of a local file or folder, by its start or its suffix."""
    return not is_url(path) and (
        path.startswith(("./", "../", "/", "~"))
        or path in (".", "..")
        or path.endswith((*DATA_SUFFIXES, ".gguf", ".jinja"))
    )


def is_url(path: str) -> bool:
    """Whether a path is the URL of a remote file."""
    scheme, separator, _ = path.partition("://")
    return bool(separator) and scheme in URL_SCHEMES


def url_file_name(url: str) -> str:
    """The file name in a URL, without the query."""
    return PurePosixPath(urlsplit(url).path).name


def is_hub_id(path: str) -> bool:
    """Whether a path has the form of a hub id: `name` or `owner/name`."""
    return _HUB_ID.fullmatch(path) is not None


def is_inline_template(text: str) -> bool:
    """Whether a `chat_template` is the text of a template and not the name of one."""
    return "{{" in text or "{%" in text


def exists(path: Path) -> bool:
    """Whether `path` exists and is accessible; False also for names that no file can have."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def resolve_paths(composed: Composed, fields: Sequence[DataPath] | None = None) -> Composed:
    """The same data with absolute local paths. Hub ids and URLs are unchanged. `fields` are the places of paths; those
    of a recipe if they are not given."""
    data, origins = copy.deepcopy(composed.data), dict(composed.origins)
    for at in _path_fields(data) if fields is None else fields:
        parent, key = parent_of(data, at), at[-1]
        origin = composed.origin_of(at)
        value = parent[key]
        if not isinstance(value, str) or not value or origin is None or value.startswith("pypi:") or is_url(value):
            continue
        is_template = at[-1] == "chat_template"
        if is_template and is_inline_template(value):
            continue
        try:
            candidate = (origin.folder / Path(value).expanduser()).resolve()
        except (OSError, RuntimeError, ValueError):  # an unknown user's home, links in a cycle, or a NUL character
            continue
        if looks_local(value) or at[-1] == "function" or (not is_template and exists(candidate)):
            parent[key] = str(candidate)
            origins[at] = replace(origin, kind="resolved")
    return replace(composed, data=data, origins=origins)


def local_data_paths(data: dict[str, Any]) -> list[DataPath]:
    """The fields of resolved data that contain the path of a local file or folder."""
    found = []
    for at in _path_fields(data):
        value = parent_of(data, at)[at[-1]]
        if isinstance(value, str) and Path(value).is_absolute() and not is_inline_template(value):
            found.append(at)
    return found


def paths_in_rewards(rewards: Any, at: DataPath) -> list[DataPath]:
    """The places in a list of sources of rewards, which stands at a path, that may have a path."""
    sources = enumerate(rewards if isinstance(rewards, list) else ())
    keys = ("model", "function", "chat_template")
    return [(*at, place, key) for place, source in sources if isinstance(source, dict) for key in keys if key in source]


def _path_fields(data: dict[str, Any]) -> list[DataPath]:
    fields: list[DataPath] = []
    if isinstance(data.get("model"), dict):
        fields.append(("model", "path"))
        if isinstance(data["model"].get("adapter"), dict):
            fields.append(("model", "adapter", "path"))
    section = data.get("data")
    if isinstance(section, dict):
        places: list[tuple[DataPath, Any]] = [(("data", "train"), section.get("train"))]
        for name in ("eval", "test"):
            held_out = section.get(name)
            places.append((("data", name, "sources"), held_out.get("sources") if isinstance(held_out, dict) else None))
        for prefix, sources in places:
            if isinstance(sources, list):
                fields += [(*prefix, i, "path") for i, source in enumerate(sources) if isinstance(source, dict)]
    objective = data.get("objective")
    if isinstance(objective, dict):
        fields += paths_in_rewards(objective.get("rewards"), ("objective", "rewards"))
    fields.append(("chat_template",))
    return [at for at in fields if at[-1] in parent_of(data, at)]


def parent_of(data: Any, at: DataPath) -> Any:
    """The mapping or list that contains the value at a path."""
    for step in at[:-1]:
        data = data[step]
    return data


def relative_note(composed: Composed, at: DataPath) -> str:
    """The folder to which the path of a field is relative, for an error about that path."""
    origin = composed.origin_of(at)
    if origin is None:
        return "there is no such file or folder"
    kind = "the current folder" if origin.where.file == "--set" else "the folder of the recipe that names it"
    return f"a relative path is relative to {kind}, {origin.folder}"


def near_file(path: Path) -> str:
    """A hint for a file that does not exist: the sibling with the most similar name, if there is one."""
    try:
        siblings = [child.name for child in path.parent.iterdir()]
    except (OSError, ValueError):
        siblings = []
    near = difflib.get_close_matches(path.name, siblings, n=1, cutoff=0.6)
    return f"did you mean {path.parent / near[0]}?" if near else "correct the path"
