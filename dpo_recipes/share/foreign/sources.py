"""Puts the sources of rows into `data.train`."""

from __future__ import annotations

from dpo_recipes.errors import Finding, Where
from dpo_recipes.recipe.paths import DATA_SUFFIXES, is_url, looks_local
from dpo_recipes.share.foreign.config import Key, Unknown
from dpo_recipes.share.foreign.draft import Draft, Keys
from dpo_recipes.share.foreign.machine import known_files
from dpo_recipes.share.foreign.values import text

_SCRIPTS = {"csv", "json", "parquet", "arrow", "text"}


def put_source(
    keys: Keys,
    index: int,
    *,
    path: str,
    name: str = "",
    split: str = "",
    format_: str = "auto",
    section: str = "data.train",
) -> str:
    """One source from the keys of its path, configuration and split. Returns its path."""
    draft, at = keys.draft, f"{section}[{index}]"
    given = keys.get(path, text)
    if given is None:
        if path in keys.data:
            _need_known(draft, keys.key(path))
        return ""
    draft.put(f"{at}.path", given, keys.key(path))
    is_file = is_url(given) or (looks_local(given) and given.endswith(DATA_SUFFIXES)) or known_files(draft, given)
    for key, to in ((name, "name"), (split, "split")):
        if not key or not keys.has(key):
            continue
        value = keys.get(key, text)
        if is_file and (to == "name" or value != "train"):
            keys.list(key, "a local file has no configurations and splits", differs=False)
        elif value not in ("default", None) or to == "split":
            draft.put(f"{at}.{to}", value, keys.key(key))
        else:
            keys.derive([key], f"{at}.{to}", note="the default configuration")
    if format_ != "auto":
        draft.put(f"{at}.format", format_)
    return given


def need_source(draft: Draft) -> None:
    """S505 if there is no source of training rows."""
    if not any(name.startswith("data.train[") for name in draft.values) and not draft.findings:
        draft.findings.append(
            Finding(
                "S505",
                f"{draft.config.file} names no training data",
                Where(draft.config.file),
                "a recipe needs at least one source of rows",
                "add it to the file, or give the options of the command line too, as a shell script",
            )
        )


def need_model(draft: Draft) -> None:
    """S505 if there is no base model."""
    if draft.has("model.path"):
        return
    unknown = next(
        (key for key in draft.config.keys.values() if _names_model(key) and isinstance(key.value, Unknown)), None
    )
    if unknown is not None:
        _need_known(draft, unknown)
    else:
        draft.findings.append(
            Finding(
                "S505",
                f"{draft.config.file} names no base model",
                Where(draft.config.file),
                "a recipe needs the model that is trained",
                "add it to the file, or give the options of the command line too, as a shell script",
            )
        )


def _names_model(key: Key) -> bool:
    return key.path[-1] in ("model_name_or_path", "base_model", "model", "model_name")


def _need_known(draft: Draft, key: Key) -> None:
    if isinstance(key.value, Unknown):
        draft.findings.append(
            Finding(
                "S505",
                f"`{key.name}` is `{key.value.text}`, which is not known here",
                key.where,
                "the value comes from the environment of another machine",
                "write the value into the file, or import a copy that has it",
            )
        )
