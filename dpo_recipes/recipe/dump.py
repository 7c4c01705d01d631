"""Writes a recipe as YAML that loads as the same recipe, and reads it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from dpo_recipes.recipe.load import load_file, resolve_scalar
from dpo_recipes.recipe.schema import Recipe


class _Dumper(yaml.SafeDumper):
    """A dumper that quotes text which the YAML 1.2 core schema would read as another type, and never writes aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "'" if not isinstance(resolve_scalar(text), str) else None
    if "\x85" in text:  # a line break in YAML 1.1: PyYAML loads it as `\n` unless it is escaped
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def plain_recipe(recipe: Recipe) -> dict[str, Any]:
    """All fields of a recipe as plain data, with defaults. `extends` is left out, because it is already merged, and so
    is an absent `sweep`, because a run has none."""
    plain = recipe.model_dump(by_alias=True)
    return {key: value for key, value in plain.items() if key != "extends" and (key != "sweep" or value is not None)}


def dump_recipe(recipe: Recipe) -> str:
    """The YAML text of all fields of a recipe."""
    return dump_plain(plain_recipe(recipe))


def dump_plain(data: dict[str, Any]) -> str:
    """The YAML text of plain data, which loads as the same data."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def dump_inline(value: Any) -> str:
    """A value in one line of YAML, which loads as the same value."""
    text = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf")
    )
    text = text.removesuffix("\n").removesuffix("\n...").strip()
    return json.dumps(value, ensure_ascii=False) if "\n" in text else text


def read_resolved(path: Path) -> Recipe:
    """The recipe in a run's resolved.yaml, the inverse of `dump_recipe`. Raises `RecipeError` if the
    file cannot be read, and pydantic's `ValidationError`."""
    return Recipe.model_validate(load_file(path).data)
