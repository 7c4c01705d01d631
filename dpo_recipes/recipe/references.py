"""References to steps of a chain: `step:NAME` where a recipe has a path stands for what the step NAME makes, and
`previous:NAME` for what it made in the round before."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from dpo_recipes.errors import Finding
from dpo_recipes.recipe.compose import Composed
from dpo_recipes.recipe.load import DataPath
from dpo_recipes.recipe.schema import Recipe

_REFERENCE = re.compile(r"(step|previous):([A-Za-z_][A-Za-z0-9_-]*)")
_PLAIN_TEXT = {"summary"}
"""Fields whose text has no meaning."""


class Reference(NamedTuple):
    """A value of a step that is a reference."""

    at: DataPath
    """Its path in the step."""
    name: str
    """The name of the other step."""
    text: str
    """The whole value."""

    @property
    def is_previous(self) -> bool:
        """Whether it leads to the round before."""
        return self.text.startswith("previous:")


def is_reference(path: str) -> bool:
    """Whether a text has the form of a reference."""
    return _REFERENCE.fullmatch(path) is not None


def find_references(data: Any, at: DataPath = ()) -> Iterator[Reference]:
    """The references in a step's data, wherever they stand."""
    if isinstance(data, dict):
        for key, value in data.items():
            if key not in _PLAIN_TEXT:
                yield from find_references(value, (*at, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from find_references(value, (*at, index))
    elif isinstance(data, str) and (match := _REFERENCE.fullmatch(data)):
        yield Reference(at, match[2], data)


def check_references(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R376: a recipe that is not a step refers to one."""
    if composed.step_place is not None:
        return
    for reference in find_references(composed.data):
        yield Finding(
            "R376",
            f"there is no step `{reference.name}`",
            composed.where(reference.at),
            "this recipe is a single run; only the steps of a chain can use what other steps made",
            "write the recipe as a step below `steps`, or give a path instead",
        )


def with_paths(composed: Composed, paths: Mapping[DataPath, str]) -> Composed:
    """The data of a step with paths in the places of its references."""
    return replace(composed, data=placed(composed.data, paths))


def placed(value: Any, paths: Mapping[DataPath, str], at: DataPath = ()) -> Any:
    """Plain data with other texts at some paths in it."""
    if at in paths:
        return paths[at]
    if isinstance(value, dict):
        return {key: placed(inner, paths, (*at, key)) for key, inner in value.items()}
    if isinstance(value, list):
        return [placed(inner, paths, (*at, index)) for index, inner in enumerate(value)]
    return value
