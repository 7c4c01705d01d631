"""Checks that an adapter's module names exist in a model, without loading weights.

peft 0.21 raises an error only if no name matches at all; otherwise it ignores the names that do not match.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from dpo_recipes.errors import Finding
from dpo_recipes.model.heads import head_modules, is_of_head
from dpo_recipes.objectives import objective_of
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.schema.adapter import LoraAdapter

_LINEAR = (torch.nn.Linear, Conv1D)
_ADAPTABLE = (
    *_LINEAR, torch.nn.Embedding, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d, torch.nn.MultiheadAttention,
)  # fmt: skip
"""Modules that LoRA supports (peft 0.21, tuners/lora/model.py)."""
_TARGETS, _WHOLE = ("model", "adapter", "target_modules"), ("model", "adapter", "modules_to_save")


def check_module_names(recipe: Recipe, base: Any) -> list[Finding]:
    """Errors R337 and R339 for names in the recipe that match no module of `base`, or modules of the wrong kind.

    `base` may be on the `meta` device. An adapter that is continued has the names in its own configuration; it is
    checked together with its weights (`continued.py`).
    """
    adapter = recipe.model.adapter
    if adapter is None or adapter.path is not None:
        return []
    modules = dict(base.named_modules())
    findings = [*_check_whole(adapter, modules, base)]
    new_head = head_modules(base) if objective_of(recipe).head == "score" else []
    try:
        targets = _converted(adapter, base)
    except ValueError as error:  # only a part of a parameter that transformers 5 has fused
        why = str(error).strip().splitlines()[0]
        fix = "name all of its parts"
        return [
            *findings,
            Finding("R339", "`target_modules` names a part of a fused module", None, why, fix, at=_TARGETS),
        ]
    if isinstance(targets, str):
        findings += _check_pattern(targets, adapter, modules, base, new_head)
    elif isinstance(adapter.target_modules, list):
        names = [name for name in adapter.target_modules if name in targets]
        findings += _check_listed(names, adapter, modules, base, new_head)
    return [*findings, *_check_new_tokens(recipe, modules, base)]


def linear_names(base: Any) -> list[str]:
    """The short names of a model's linear layers except the LM head, each once, in the order of the model."""
    head = base.get_output_embeddings()
    return _short(name for name, module in base.named_modules() if isinstance(module, _LINEAR) and module is not head)


def _converted(adapter: LoraAdapter, base: Any) -> str | list[str]:
    """The target modules without those that peft 0.21 replaces by parameters.

    These are the experts of a mixture, which were modules in transformers 4. Raises `ValueError` if only a part of a
    fused parameter is named.
    """
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    config = LoraConfig(target_modules=adapter.target_modules)
    convert_peft_config_for_transformers(config, model=base, conversions=None)
    targets = config.target_modules
    return targets if isinstance(targets, str) else list(targets or ())


def _check_listed(
    names: list[str], adapter: LoraAdapter, modules: dict[str, Any], base: Any, new_head: list[str]
) -> Iterator[Finding]:
    for name in names:
        at = (*_TARGETS, adapter.target_modules.index(name))
        found = _matching(name, modules)
        if not found:
            yield _unknown(name, at, linear_names(base), base)
        elif all(is_of_head(path, new_head) for path in found):
            yield _on_new_head(f"`{name}`", at)
        elif any(matching_any(adapter.modules_to_save, path) for path in found):
            yield Finding(
                "R339",
                f"`{name}` is in `target_modules` and in `modules_to_save`",
                why="a module gets an adapter or is trained whole, not both",
                fix="remove it from one of them",
                at=at,
            )
        else:
            yield from _check_kinds(f"`{name}`", found, at, modules, base)


def _check_pattern(
    pattern: str, adapter: LoraAdapter, modules: dict[str, Any], base: Any, new_head: list[str]
) -> Iterator[Finding]:
    if pattern.lower() == "all-linear":
        return
    found = [path for path in modules if re.fullmatch(pattern, path)]
    if found and all(is_of_head(path, new_head) for path in found):
        yield _on_new_head(f"the pattern `{pattern}`", _TARGETS)
        return
    found = [path for path in found if not matching_any(adapter.modules_to_save, path)]
    if found:
        yield from _check_kinds(f"the pattern `{pattern}`", found, _TARGETS, modules, base)
        return
    names = [name for name in re.split(r"[,\s]+", pattern) if name]
    known = all(_matching(name, modules) for name in names)
    path = next((path for path, module in modules.items() if isinstance(module, _LINEAR)), "")
    fix = f"a pattern must match the whole path of a module, such as `{path}`"
    yield Finding(
        "R337",
        f"the pattern `{pattern}` matches no module of the model",
        why=f"{type(base).__name__} has the linear layers {', '.join(linear_names(base))}",
        fix=f"write a list: `[{', '.join(names)}]`" if known else fix,
        at=_TARGETS,
    )


def _on_new_head(what: str, at: tuple[str | int, ...]) -> Finding:
    """The error for a name or pattern that only matches the head of a model that scores. peft 0.21 ignores it."""
    return Finding(
        "R339",
        f"{what} puts an adapter on the head that scores",
        why="this head is new, so it is trained whole in any case and gets no adapter",
        fix="remove it from `target_modules`",
        at=at,
    )


def _check_kinds(
    what: str, found: list[str], at: tuple[str | int, ...], modules: dict[str, Any], base: Any
) -> Iterator[Finding]:
    """Errors if LoRA does not support the modules that a name or pattern matches, or TRL cannot train it there."""
    head = base.get_output_embeddings()
    other = next((path for path in found if not isinstance(modules[path], _ADAPTABLE)), None)
    if other is not None:
        yield Finding(
            "R339",
            f"{what} matches modules that cannot have an adapter",
            why=f"`{other}` is a {type(modules[other]).__name__}; LoRA supports linear layers and embeddings",
            fix=f"name linear layers: {', '.join(linear_names(base))}",
            at=at,
        )
    elif any(modules[path] is head for path in found):
        name = next(path for path in found if modules[path] is head).rpartition(".")[2]
        yield Finding(
            "R339",
            f"{what} puts an adapter on the LM head `{name}`",
            why="TRL uses the head's own weights, so an adapter on the head would never be trained",
            fix=f"leave `{name}` out; to train it whole, write `modules_to_save: [{name}]`",
            at=at,
        )


def _check_whole(adapter: LoraAdapter, modules: dict[str, Any], base: Any) -> Iterator[Finding]:
    for index, name in enumerate(adapter.modules_to_save):
        if not _matching(name, modules):
            known = _short(path for path, module in modules.items() if [*module.parameters(recurse=False)])
            yield _unknown(name, (*_WHOLE, index), known, base)


def _check_new_tokens(recipe: Recipe, modules: dict[str, Any], base: Any) -> Iterator[Finding]:
    """An error if tokens are added, the head is tied to the embeddings, and only the head is trained whole."""
    adapter = recipe.model.adapter
    if adapter is None or not recipe.model.add_special_tokens or not tie_embeddings(base):
        return
    embeddings, head = (
        _path_of(layer, modules) for layer in (base.get_input_embeddings(), base.get_output_embeddings())
    )
    whole = {path: index for index, name in enumerate(adapter.modules_to_save) for path in _matching(name, modules)}
    if head in whole and embeddings not in whole:
        name = embeddings.rpartition(".")[2]
        yield Finding(
            "R339",
            f"new tokens need `{name}` when `{head}` is trained whole",
            why="the model ties the two: both have one matrix, and the rows of new tokens would be trained in neither",
            fix=f"write `modules_to_save: [{name}, {head}]`, or remove `{head}` from it",
            at=(*_WHOLE, whole[head]),
        )


def tie_embeddings(base: Any) -> bool:
    """Whether a model's LM head and input embeddings are the same matrix."""
    return bool(base.config.get_text_config().tie_word_embeddings)


def _path_of(layer: Any, modules: dict[str, Any]) -> str:
    return next((path for path, module in modules.items() if module is layer), "")


def _matching(name: str, paths: Iterable[str]) -> list[str]:
    """The module paths that a name in a list matches: those that are equal to it or end with it."""
    return [path for path in paths if path == name or path.endswith(f".{name}")]


def matching_any(names: Iterable[str], path: str) -> bool:
    """Whether one of the names in a list matches the module at a path."""
    return any(_matching(name, [path]) for name in names)


def _unknown(name: str, at: tuple[str | int, ...], known: list[str], base: Any) -> Finding:
    paths = [path for path, _ in base.named_modules()] if "." in name else []
    near = difflib.get_close_matches(name, [*known, *paths], n=1, cutoff=0.6)
    return Finding(
        "R337",
        f"`{name}` matches no module of the model",
        why=f"{type(base).__name__} has {', '.join(known)}",
        fix=f"did you mean `{near[0]}`?" if near else "use the names of this model",
        at=at,
    )


def _short(paths: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(path.rpartition(".")[2] for path in paths))
