"""Warns about adapters that train the tied embedding or head of a base, which become separate matrices."""

from __future__ import annotations

import re
from typing import Any

from dpo_recipes.errors import Finding
from dpo_recipes.model.module_names import matching_any


def tied_names(policy: Any) -> tuple[str, str] | None:
    """The paths of the input embedding and the head of a base that ties them; None if it does not."""
    embedding, head = policy.get_input_embeddings(), policy.get_output_embeddings()
    if head is None or embedding.weight is not head.weight:
        return None
    names = {id(module): name for name, module in policy.named_modules()}
    return names[id(embedding)], names[id(head)]


def describe_untied(names: tuple[str, str] | None, config: Any, base: str) -> list[Finding]:
    """A warning M524 if an adapter trains the embedding or the head of a base that ties them."""
    if names is None or config is None:
        return []
    trained = [name for name in names if _is_trained(name, config)]
    if not trained:
        return []
    embedding, head = names
    both = len(trained) == 2
    other = head if trained == [embedding] else embedding
    finding = Finding(
        "M524",
        f"{base} ties `{embedding}` and `{head}`, and training unties them",
        why="each is trained, and they become two matrices"
        if both
        else f"`{trained[0]}` is trained, and `{other}` keeps the base's weights",
        fix="no action is needed: a merged model is saved with both matrices, and an adapter fits the base"
        + ("" if both else f"; to train both, add `{other}` to `modules_to_save`"),
        severity="warning",
    )
    return [finding]


def _is_trained(path: str, config: Any) -> bool:
    targets = config.target_modules or ()
    if isinstance(targets, str):
        return bool(re.fullmatch(targets, path)) or matching_any(config.modules_to_save or (), path)
    return matching_any([*targets, *(config.modules_to_save or ())], path)
