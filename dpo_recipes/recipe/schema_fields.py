"""Looks up sections and fields of the schema by their path in a recipe, for messages and the reference page."""

from __future__ import annotations

import types
from collections.abc import Iterable
from functools import cache
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dpo_recipes.objectives import DEFAULT_KIND, all_params
from dpo_recipes.objectives.base import ObjectiveParams
from dpo_recipes.recipe.load import DataPath
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.schema.guards import Guards, complete_guards
from dpo_recipes.reward_settings import REWARD_SECTIONS, RewardSettings
from dpo_recipes.section import Section


def section_at(place: DataPath, data: Any, root: type[BaseModel] = Recipe) -> type[BaseModel] | None:
    """The class of the section at a path in the section `root`. Where it depends on a key such as `kind`, the `data`
    decide."""
    section: type[BaseModel] | None = root
    among: list[type[BaseModel]] = []
    is_name = False
    for step in place:
        data = _step_into(data, step)
        if isinstance(step, int) and among:
            section = _chosen(among, data)
        if isinstance(step, int) or section is None:
            continue
        if is_name:  # a key in a mapping of sections
            is_name = False
            continue
        found = field_of(section, step)
        among = sections_in(found.annotation) if found else []
        section = _chosen(among, data)
        is_name = found is not None and get_origin(found.annotation) is dict
    return section


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The classes of sections in a field's type: several if the section depends on a key such as `kind`. Those of other
    packages are among them. Raises `RecipeError` R318."""
    if annotation is Guards:
        return [complete_guards()]
    if annotation is ObjectiveParams:
        params = all_params()
        return [params[DEFAULT_KIND], *(each for kind, each in params.items() if kind != DEFAULT_KIND)]
    if annotation is RewardSettings:
        return list(REWARD_SECTIONS)
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [section for part in get_args(annotation) for section in sections_in(part)]


def has_values_below(annotation: Any) -> bool:
    """Whether a value of a field's type is a section, a list or a mapping, which a longer path leads into."""
    parts = (annotation, *get_args(annotation))
    return bool(sections_in(annotation)) or any(get_origin(part) in (list, dict) for part in parts)


def kinds_of(section: type[BaseModel]) -> tuple[str, ...]:
    """The values of `kind`, or of the section's other selector, that a section's class accepts; none if it has no such
    field."""
    kind = section.model_fields.get(_selector(section))
    return get_args(kind.annotation) if kind and get_origin(kind.annotation) is Literal else ()


def labels_of(section: type[BaseModel]) -> list[str]:
    """What a recipe writes to get this class of several: `kind: dpo`, or `model` if the key alone chooses it."""
    selector = _selector(section)
    if kinds := kinds_of(section):
        return [f"{selector}: {kind}" for kind in kinds]
    return [selector] if selector in section.model_fields else []


def labels_with(place: DataPath, key: str) -> list[str]:
    """The labels of the sections that a path may have and that have a field `key`."""
    return [label for section in _candidates(place) if key in field_names(section) for label in labels_of(section)]


def _selector(section: type[BaseModel]) -> str:
    return section.selector if issubclass(section, Section) else "kind"


def first_kind(place: DataPath) -> str:
    """The usual kind of the section at a path, for an example."""
    return next(kind for section in _candidates(place) for kind in kinds_of(section))


def field_of(section: type[BaseModel], key: str) -> FieldInfo | None:
    """The field that a key names."""
    return next((found for name, found in section.model_fields.items() if (found.alias or name) == key), None)


def field_names(section: type[BaseModel] | None) -> list[str]:
    """The keys of a section."""
    return [found.alias or name for name, found in section.model_fields.items()] if section else []


def describe(place: DataPath, data: Any, root: type[BaseModel] = Recipe) -> str | None:
    """The description of the field at a path in the section `root`."""
    names = [step for step in place if isinstance(step, str)]
    if not names:
        return None
    last = max(position for position, step in enumerate(place) if isinstance(step, str))
    section = section_at(place[:last], data, root)
    found = field_of(section, names[-1]) if section else None
    return found.description if found else None


@cache
def listed_fields() -> list[tuple[DataPath, str]]:
    """The fields of the whole recipe. They are cached, because listing them takes milliseconds and each unknown key
    needs them."""
    return list(dict.fromkeys(all_fields()))


def all_fields(section: type[BaseModel] = Recipe, place: DataPath = ()) -> Iterable[tuple[DataPath, str]]:
    """The path and key of every field of the schema, of all kinds; the path is that of its section."""
    for name, found in section.model_fields.items():
        key = found.alias or name
        yield place, key
        for inner in sections_in(found.annotation):
            yield from all_fields(inner, (*place, key + below(found.annotation)))


def below(annotation: Any) -> str:
    """The path from a field to a section in it: an index in a list of sections, or a name in a mapping of sections."""
    if get_origin(annotation) is dict:
        return ".NAME"
    return "[]" if "list" in str(annotation) else ""


def _candidates(place: DataPath) -> list[type[BaseModel]]:
    """All classes that the section at a path may have, whatever a recipe chooses."""
    if not place:
        return [Recipe]
    if isinstance(place[-1], int):
        return _candidates(place[:-1])
    fields = [field_of(parent, place[-1]) for parent in _candidates(place[:-1])]
    return list(dict.fromkeys(section for found in fields if found for section in sections_in(found.annotation)))


def _chosen(sections: list[type[BaseModel]], data: Any) -> type[BaseModel] | None:
    """The class that the keys of a mapping choose, or the first one."""
    plain = data if isinstance(data, dict) else {}
    for section in sections:
        selector, kinds = _selector(section), kinds_of(section)
        if (plain.get(selector) in kinds) if kinds else (selector in plain and selector in section.model_fields):
            return section
    return sections[0] if sections else None


def _step_into(data: Any, step: str | int) -> Any:
    if isinstance(data, dict):
        return data.get(step)
    if isinstance(data, list) and isinstance(step, int) and step < len(data):
        return data[step]
    return None
