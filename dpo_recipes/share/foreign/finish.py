"""What every import ends with: the name of the recipe, and settings that belong together."""

from __future__ import annotations

import os
import re
from pathlib import Path

from dpo_recipes.recipe.paths import exists, is_url, looks_local
from dpo_recipes.share.foreign.draft import Draft, Value
from dpo_recipes.share.foreign.sources import need_model
from dpo_recipes.share.foreign.tool import Tool

_BAD = re.compile(r"[^A-Za-z0-9._-]+")
_COUPLED = {"kto": "KTO estimates the KL divergence from the rows of a micro-batch, and one row gives no usable mean"}


_MEDIA = re.compile(r"(?i)(^|[-_/.0-9])(vl|vision|omni|audio|llava|ocr)([-_/.0-9]|$)")


def finish(draft: Draft, tool: Tool, to: Path) -> None:
    """Add the name, and bring settings together that a recipe checks."""
    draft.values = {
        "name": Value(recipe_name(to, draft.config.file)),
        "summary": Value(f"Imported from {_plain(Path(draft.config.file).name)} ({tool.full_name})"),
        **draft.values,
    }
    need_model(draft)
    if _MEDIA.search(str(draft.value("model.path", ""))):
        draft.remarks.append("the base seems to read images or sound; a recipe trains models of text")
    _widen_micro_batch(draft)
    _constant_for_schedule_free(draft)
    if not draft.has("data.on_bad_row"):
        draft.values["data.on_bad_row"] = Value("drop", "like that tool, do not end the run at a row without use")
    for name in [name for name in draft.values if name.endswith("].path") or name in ("model.path", "chat_template")]:
        _make_relative(draft, name, to)


def recipe_name(to: Path, file: str) -> str:
    """A name for the recipe, from that of its own file, or else from the foreign one."""
    stem = to.stem if to.suffix in (".yaml", ".yml") and to.stem != "recipe" else Path(file).stem
    name = _BAD.sub("-", stem).strip("._-")[:100]
    return name or "imported"


def _plain(text: str) -> str:
    return re.sub(r"[^ -~]", "?", text)


def _widen_micro_batch(draft: Draft) -> None:
    """KTO needs two rows in a micro-batch; the effective batch stays the same if it is even."""
    kind, why = draft.value("objective.kind"), _COUPLED.get(draft.value("objective.kind", ""))
    if why is None or draft.value("training.micro_batch_size") != 1:
        return
    if draft.value("objective.loss_type", "kto") != "kto":
        return
    steps = draft.value("training.gradient_accumulation_steps", 1)
    names = ("training.micro_batch_size", "training.gradient_accumulation_steps")
    old = {name: draft.values[name] for name in names if name in draft.values}
    new = dict(zip(names, (2, max(1, steps // 2)), strict=True))
    differs = steps % 2 == 1
    for name, value in new.items():
        keys = old[name].keys if name in old else ()
        note = f"1 × {steps} in {draft.tool}; {why}"
        draft.values[name] = Value(value, note, keys=keys)
        for key in keys:
            draft.account(key, "derived", name, note=note)
    if differs:
        draft.remarks.append(f"`{kind}` has {2 * max(1, steps // 2)} rows in a step instead of {steps}, because {why}")


def _constant_for_schedule_free(draft: Draft) -> None:
    optimizer, to = draft.value("training.optimizer", ""), "training.lr_scheduler"
    if not optimizer.startswith("schedule_free") or str(draft.value(to)).startswith("constant"):
        return
    keys = draft.values[to].keys
    has_warmup = draft.value("training.warmup_ratio", 0) or draft.value("training.warmup_steps", 0)
    kind = "constant_with_warmup" if has_warmup else "constant"
    draft.put(to, kind, *keys, note=f"`{optimizer}` replaces a schedule", differs=bool(keys))


def _make_relative(draft: Draft, name: str, to: Path) -> None:
    """A path that exists here, relative to the current folder or that of the foreign file, relative to the recipe."""
    value = draft.values[name]
    path = value.value
    if not isinstance(path, str) or not path or is_url(path) or "\n" in path or path.startswith(("pypi:", "~")):
        return
    if not looks_local(path) and (path.count("/") < 1 or path.startswith("hf://")) and name == "chat_template":
        return
    if Path(path).is_absolute():
        return
    for folder in (Path(), draft.config.folder):
        if exists(folder / path):
            relative = os.path.relpath((folder / path).resolve(), to.resolve().parent)
            shown = relative if looks_local(relative) or "/" not in path else f"./{relative}"
            draft.values[name] = Value(shown, value.comment, value.is_default, value.keys)
            return
