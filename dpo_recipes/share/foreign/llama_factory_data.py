"""LLaMA-Factory's datasets: names that a dataset_info.json describes, that of the file's own folder or that of
LLaMA-Factory itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from dpo_recipes.recipe.paths import exists, is_url
from dpo_recipes.share.foreign.config import Key
from dpo_recipes.share.foreign.draft import Draft, Keys
from dpo_recipes.share.foreign.values import WrongValue, flag, names, number, numbers, text, whole

DATA_URL = "https://raw.githubusercontent.com/hiyouga/LLaMA-Factory/v0.9.5/data/"
"""The folder `data` of LLaMA-Factory 0.9.5, for its demonstration files where they are not here."""
_MEDIA = ("images", "videos", "audios")
_ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
_SHAREGPT = {"messages": "conversations"}
_BOTH = ("chosen", "rejected", "kto_tag", "system", "tools", "history")
_KNOWN_TAGS = {
    "role_tag": ("from", "role"),
    "content_tag": ("value", "content"),
    "user_tag": ("human", "user"),
    "assistant_tag": ("gpt", "assistant", "bot"),
    "system_tag": ("system",),
    "observation_tag": ("observation", "tool"),
    "function_tag": ("function_call", "tool_call", "function"),
}


@lru_cache(maxsize=1)
def _shipped() -> Mapping[str, Any]:
    path = resources.files("dpo_recipes.share.foreign").joinpath("llama_factory_data.json")
    return json.loads(path.read_text(encoding="utf-8"))


def map_data(keys: Keys, kind: str) -> None:
    """`data.train` and `data.eval`."""
    draft = keys.draft
    folder = keys.get("dataset_dir", text, "data")
    info, where = _find_info(draft, folder)
    used = _put_all(keys, "dataset", "data.train", kind, (info, where, folder))
    _put_all(keys, "eval_dataset", "data.eval.sources", kind, (info, where, folder))
    keys.derive(["dataset_dir"], "data.train")
    limit = keys.get("max_samples", whole)
    if limit is not None and limit > 0:
        for index in range(used):
            draft.put(f"data.train[{index}].limit", limit, keys.key("max_samples"))
    _map_mixture(keys, used)
    if keys.get("streaming", flag, False):
        draft.put("data.train[0].streaming", True, keys.key("streaming"))
    else:
        keys.derive(["streaming"], "data.train[0].streaming")
    _map_held_out(keys)


def _map_mixture(keys: Keys, used: int) -> None:
    draft, strategy = keys.draft, keys.get("mix_strategy", text, "concat")
    shares = keys.get("interleave_probs", numbers)
    if strategy == "concat" or used < 2:
        keys.derive(["mix_strategy"], "data.train", note="sources are concatenated")
        keys.list("interleave_probs", "sources are concatenated, so their shares are not used", differs=False)
        return
    given = [keys.key(name) for name in ("mix_strategy", "interleave_probs") if keys.has(name)]
    note = "no row is repeated here, as with `interleave_under`" if "over" in strategy else ""
    for index in range(used):
        share = shares[index] if shares and index < len(shares) and shares[index] > 0 else 1.0
        draft.put(f"data.train[{index}].weight", share, *given, note=note, differs=bool(note))


def _map_held_out(keys: Keys) -> None:
    draft, size = keys.draft, keys.get("val_size", number)
    if keys.has("eval_dataset"):
        keys.list("val_size", "`eval_dataset` is evaluated instead", differs=False)
    elif size is not None and 0 < size < 1:
        draft.put("data.eval.fraction", size, keys.key("val_size"))
    elif size is not None and size >= 1:
        draft.put("data.eval.count", round(size), keys.key("val_size"))
    else:
        keys.derive(["val_size"], "data.eval", note="nothing is held out")
    keys.list("eval_on_each_dataset", "name `subset` in `columns` for the accuracy of each part", differs=False)


def _find_info(draft: Draft, folder: str) -> tuple[Mapping[str, Any], Path | None]:
    """The descriptions in a dataset_info.json: in `dataset_dir`, or beside the file."""
    places = [Path(folder), draft.config.folder / folder, draft.config.folder, draft.config.folder.parent / folder]
    for place in places:
        path = place / "dataset_info.json"
        if exists(path) and path.is_file() and path.stat().st_size < 10_000_000:
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError) as error:
                draft.remarks.append(f"{path} cannot be read, so the datasets are looked up elsewhere: {error}")
                continue
            if isinstance(found, dict):
                return found, place
    return {}, None


def _put_all(keys: Keys, name: str, section: str, kind: str, known: tuple[Mapping[str, Any], Path | None, str]) -> int:
    """All datasets of a key. Returns their number."""
    given = keys.get(name, names) or []
    for index, dataset in enumerate(given):
        _put_dataset(keys.key(name), f"{section}[{index}]", dataset, kind, keys.draft, known)
    return len(given)


def _put_dataset(
    key: Key, at: str, name: str, kind: str, draft: Draft, known: tuple[Mapping[str, Any], Path | None, str]
) -> None:
    info, place, folder = known
    described = info.get(name)
    own = isinstance(described, dict)
    attributes: Mapping[str, Any] = described if isinstance(described, dict) else _shipped().get(name, {})
    if folder == "ONLINE" or not attributes:
        path = name if folder == "ONLINE" else f"{folder}/{name}.json"
        draft.put(f"{at}.path", path, key)
        if folder != "ONLINE":
            draft.remarks.append(
                f"no dataset_info.json describes `{name}`: check `{at}.path` and `format`, or import the file from "
                "a folder that has `data/dataset_info.json`"
            )
        return
    path = _path_of(attributes, place if own else None, folder)
    draft.put(f"{at}.path", path, key, note="" if path == name else f"dataset: {name}")
    is_hub = "hf_hub_url" in attributes or "ms_hub_url" in attributes
    for field, to in (("subset", "name"), ("split", "split")):
        if is_hub and isinstance(attributes.get(field), str) and attributes[field] not in ("default", "train"):
            draft.put(f"{at}.{to}", attributes[field], key)
    try:
        if attributes.get("num_samples"):
            draft.put(f"{at}.limit", whole(attributes["num_samples"]), key)
    except WrongValue:
        draft.remarks.append(f"`num_samples` of `{name}` is not a number")
    _put_format(key, at, attributes, draft, name)


def _path_of(attributes: Mapping[str, Any], place: Path | None, folder: str) -> str:
    """The hub id, or the file in the folder of the descriptions."""
    for name in ("hf_hub_url", "ms_hub_url"):
        if isinstance(attributes.get(name), str):
            return attributes[name]
    name = str(attributes.get("file_name") or attributes.get("script_url") or attributes.get("cloud_file_name") or "")
    if is_url(name) or "://" in name:
        return name
    if place is not None:
        return str(place / name)
    local = Path(folder) / name
    return str(local) if exists(local) else DATA_URL + name


def _put_format(key: Key, at: str, attributes: Mapping[str, Any], draft: Draft, name: str) -> None:
    """`format` and `columns` from a description."""
    columns = attributes.get("columns")
    columns = columns if isinstance(columns, dict) else {}
    is_sharegpt = attributes.get("formatting", "alpaca") != "alpaca"
    stem = "sharegpt" if is_sharegpt else "alpaca"
    format_ = stem if attributes.get("ranking") else f"{stem}_kto" if "kto_tag" in columns else f"{stem}_sft"
    draft.put(f"{at}.format", format_, key)
    own = {**(_SHAREGPT if is_sharegpt else _ALPACA), **{column: column for column in _BOTH}}
    renamed = {own[ours]: theirs for ours, theirs in columns.items() if ours in own and own[ours] != theirs}
    if renamed and all(isinstance(value, str) for value in renamed.values()):
        draft.put(f"{at}.columns", renamed, key)
    if any(medium in columns for medium in _MEDIA):
        draft.remarks.append(f"`{name}` has images, videos or sounds, which are not read here")
    tags = attributes.get("tags")
    for odd in _odd_tags(tags if isinstance(tags, dict) else {}):
        draft.remarks.append(f"`{name}` names its turns by `{odd}`, which may not be recognized here")


def _odd_tags(tags: Mapping[str, Any]) -> Iterator[str]:
    for tag, known in _KNOWN_TAGS.items():
        if tag in tags and str(tags[tag]).lower() not in known:
            yield str(tags[tag])
