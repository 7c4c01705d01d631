"""Checks that a base's files hold the weights of its architecture.

transformers only warns about missing weights and initializes them with random numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from dpo_recipes.errors import Finding, RunError
from dpo_recipes.model.heads import without_head
from dpo_recipes.objectives.base import Head

_SHOWN = 4
_BUFFERS = re.compile(
    r"(^|\.)(rotary_emb(\.\w+)*|(attn|attention)\.(bias|masked_bias)|masked_bias|position_ids|inv_freq)$"
)
"""Buffers that earlier versions saved and that every model computes itself."""
_FOREIGN = {
    r"lora_": "the files hold an adapter that was not merged: use its base as `model.path` and the adapter as "
    "`model.adapter.path`, or merge it first",
    r"base_layer\.": "the files were saved with an adapter around their layers: merge it first (peft: "
    "`merge_and_unload`), and save the result",
    r"_orig_mod\.": "the files were saved from a compiled model: remove `_orig_mod.` from the names",
    r"^module\.": "the files were saved from a wrapped model: remove `module.` from the names",
    r"(qweight|weight_scale|absmax|SCB)$": "the files are quantized and config.json lacks their `quantization_config`: "
    "use the config.json that belongs to them, or the unquantized base",
}
"""Patterns in the names of unexpected weights, and the hint for the origin that each indicates."""
_REPAIR = "use complete files of this model, or the config.json that belongs to them"


def judge_weights(info: Mapping[str, Any], model: Any, path: str, head: Head = "causal_lm") -> list[Finding]:
    """Warnings about weights in a base's files that its architecture does not use.

    `info` is the loading information of `from_pretrained(..., output_loading_info=True)`; transformers has removed from
    it what the files of an architecture may lack (a tied head, rotary buffers). A model that scores begins with
    a new head and without the base's head for tokens. Raises `RunError` M516 if weights are missing, have another
    shape, or belong to a part of the model whose results would differ without them.
    """
    missing = sorted(without_head(info["missing_keys"], model, head))
    other_shape = sorted(info["mismatched_keys"])
    unexpected = sorted(without_head(info["unexpected_keys"], model, head))
    unexpected = [name for name in unexpected if not _BUFFERS.search(name)]
    architecture = type(model).__name__
    if missing and unexpected:
        raise _refused(
            f"the weights of {path} have other names than {architecture}'s",
            f"{len(missing)} are missing, such as {name_some(missing, 2)}; {len(unexpected)} are unexpected, such as "
            f"{name_some(unexpected, 2)}",
            _hint(unexpected),
        )
    if missing:
        raise _refused(
            f"{len(missing)} {_weights(missing)} of {architecture} {_are(missing)} not in {path}",
            f"{name_some(missing)}; they would be random numbers",
            _REPAIR,
        )
    if other_shape:
        shapes = [f"{name} is {_shape(stored)}, not {_shape(wanted)}" for name, stored, wanted in other_shape]
        raise _refused(
            f"{len(shapes)} {_weights(shapes)} of {path} {'have' if len(shapes) > 1 else 'has'} another shape than "
            "config.json says",
            name_some(shapes),
            _REPAIR,
        )
    inside = [name for name in unexpected if _is_inside(name, model)]
    if inside:
        raise _refused(
            f"{len(inside)} {_weights(inside)} of {path} {'have' if len(inside) > 1 else 'has'} no place in "
            f"{architecture}",
            f"{name_some(inside)}; without them the model would compute different results",
            _hint(inside),
        )
    if unexpected:
        return [
            Finding(
                "M517",
                f"{len(unexpected)} {_weights(unexpected)} of {path} {_are(unexpected)} not used",
                why=f"{architecture} has no such part: {name_some(unexpected)}",
                fix="a head for another task or a part for images is not needed here; check that config.json belongs "
                "to the files",
                severity="warning",
                at=("model", "path"),
            )
        ]
    return []


def name_some(names: Iterable[str], shown: int = _SHOWN) -> str:
    """The first few names, and the number of further ones."""
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _is_inside(name: str, model: Any) -> bool:
    """Whether a weight belongs to a part that the model has.

    Examples are a layer beyond the last one, or a bias; `score` or `vision_tower` would be separate parts.
    """
    modules = {path for path, _ in model.named_modules()}
    roots = {"", model.base_model_prefix, f"{model.base_model_prefix}.language_model", "language_model"}
    for candidate in (name, f"{model.base_model_prefix}.{name}"):
        path = candidate
        while path not in modules:
            path = path.rpartition(".")[0]
        if path not in roots:
            return True
    return False


def _hint(unexpected: list[str]) -> str:
    return next((hint for part, hint in _FOREIGN.items() for name in unexpected if re.search(part, name)), _REPAIR)


def _refused(what: str, why: str, fix: str) -> RunError:
    return RunError(Finding("M516", what, None, why, fix, at=("model", "path")))


def _shape(size: Iterable[int]) -> str:
    return "×".join(map(str, size)) or "one number"


def _weights(names: list[Any]) -> str:
    return "weights" if len(names) > 1 else "weight"


def _are(names: list[Any]) -> str:
    return "are" if len(names) > 1 else "is"
