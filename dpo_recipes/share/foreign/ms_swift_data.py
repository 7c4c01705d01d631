"""ms-swift's datasets: `id:subset#number`, with ids of ModelScope unless `use_hf` is set."""

from __future__ import annotations

import re

from dpo_recipes.recipe.paths import DATA_SUFFIXES
from dpo_recipes.share.foreign.command import PREPARATION
from dpo_recipes.share.foreign.config import Key
from dpo_recipes.share.foreign.draft import Draft, Keys
from dpo_recipes.share.foreign.modelscope import KNOWN_DATASETS, hub_id
from dpo_recipes.share.foreign.values import flag, mapping, names, number

_SYNTAX = re.compile(r"(?:(?P<hub>hf|ms)::)?(?P<id>[^#]*?)(?::(?P<subsets>[^:#]+))?(?:#(?P<count>\d+))?", re.IGNORECASE)


def map_data(keys: Keys, draft: Draft, kind: str) -> None:
    """`data.train` and `data.eval`. Rows that `swift export` has prepared in the same script are read from their
    source."""
    exported = keys.sub(PREPARATION)
    place = keys
    if not keys.has("dataset") and keys.has("cached_dataset") and exported.has("dataset"):
        place = exported
        keys.derive(["cached_dataset", "cached_val_dataset"], "data.train", note="rows that `swift export` prepares")
        exported.derive(["to_cached_dataset", "output_dir"], "data.train")
        exported.list("model", "the model is that of the training", differs=False)
    elif keys.has("cached_dataset") and not keys.has("dataset"):
        draft.remarks.append("rows that `swift export` has prepared cannot be read: name their source as data.train")
        for index, path in enumerate(keys.get("cached_dataset", names) or []):
            draft.put(f"data.train[{index}].path", path, keys.key("cached_dataset"))
    uses_hf = keys.get("use_hf", flag, False) or draft.config.environment.get("USE_HF") == "1"
    columns = keys.get("columns", mapping, {})
    for name, section, where in (("dataset", "data.train", place), ("val_dataset", "data.eval.sources", keys)):
        index = 0
        for given in where.get(name, names_of_data) or []:
            index = _put(given, where.key(name), section, index, draft, columns, uses_hf=uses_hf)
    if columns and draft.has("data.train[0].columns"):
        keys.derive(["columns"], "data.train[0].columns")
    ratio = place.get("split_dataset_ratio", number)
    if keys.has("val_dataset"):
        place.list("split_dataset_ratio", "`val_dataset` is evaluated instead", differs=False)
    elif ratio is not None and 0 < ratio < 1:
        draft.put("data.eval.fraction", ratio, place.key("split_dataset_ratio"))
    else:
        place.derive(["split_dataset_ratio"], "data.eval", note="nothing is held out")
    if keys.get("streaming", flag, False):
        draft.put("data.train[0].streaming", True, keys.key("streaming"))
    else:
        keys.derive(["streaming"], "data.train[0].streaming")


def names_of_data(value: object) -> list[str]:
    """A list of datasets. A text is one dataset, and its spaces separate several."""
    return value.split() if isinstance(value, str) else names(value)


def _put(
    given: str,
    key: Key,
    section: str,
    index: int,
    draft: Draft,
    columns: dict[str, str],
    *,
    uses_hf: bool,
) -> int:
    """One dataset, a source for each of its subsets. Returns the next index."""
    match = _SYNTAX.fullmatch(given)
    path = match["id"] if match and match["id"] else given
    is_hf = uses_hf or (match is not None and (match["hub"] or "").lower() == "hf")
    known = KNOWN_DATASETS.get(path)
    target, is_known = (known[0], True) if known else (path, True) if is_hf else hub_id(path, draft)
    is_file = path.endswith(DATA_SUFFIXES)
    subsets = (match["subsets"] or "").split("/") if match else [""]
    for subset in subsets:
        at = f"{section}[{index}]"
        note = "" if target == given else given
        if not is_known and not is_file:
            note = f"{given}: an id of ModelScope; the same one is used on the hub, which may not exist there"
        draft.put(f"{at}.path", target, key, note=note, differs=not is_known and not is_file)
        if subset and subset != "default" and not is_file:
            draft.put(f"{at}.name", subset, key)
        _put_format(at, known, columns, draft, key)
        if match and match["count"] and int(match["count"]) > 0:
            draft.put(f"{at}.limit", int(match["count"]), key)
        index += 1
    return index


def _put_format(
    at: str, known: tuple[str, str, dict[str, str]] | None, columns: dict[str, str], draft: Draft, key: Key
) -> None:
    if columns and all(isinstance(value, str) for value in columns.values()):
        renamed = {ours: theirs for theirs, ours in columns.items()}
        format_ = "ms_swift_query" if {"query", "response"} & set(renamed) else "ms_swift"
        wanted = {
            "ms_swift_query": ("query", "response", "rejected_response", "history", "system"),
            "ms_swift": ("messages", "rejected_messages", "rejected_response", "system"),
        }[format_]
        draft.put(f"{at}.format", format_, key)
        draft.put(f"{at}.columns", {name: value for name, value in renamed.items() if name in wanted}, key)
    elif known:
        draft.put(f"{at}.format", known[1], key)
        if known[2]:
            draft.put(f"{at}.columns", known[2], key)
