"""Names to code: visible tables of "module:attribute" strings, resolved on first use.

A table costs nothing to read, so the command line can list what exists without loading it. Outside
packages add entries through the entry-point group `dpo_recipes.<table>`.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import Any

OBJECTIVES = {
    "dpo": "dpo_recipes.objectives.dpo:build_trainer",
}

DATA_FORMATS = {
    "preference": "dpo_recipes.data.formats.preference:FORMAT",
    "hh_rlhf": "dpo_recipes.data.formats.hh_rlhf:FORMAT",
}

MODEL_SOURCES = {
    "hub": "dpo_recipes.model.sources:resolve_hub",
    "local": "dpo_recipes.model.sources:resolve_local",
    "pypi": "dpo_recipes.model.pypi:resolve_pypi",
}

LAUNCHERS = {
    "local": "dpo_recipes.launch.local:start",
}

TABLES = {
    "objectives": OBJECTIVES,
    "data_formats": DATA_FORMATS,
    "model_sources": MODEL_SOURCES,
    "launchers": LAUNCHERS,
}


def names(table: str) -> list[str]:
    """The names in a table, those of outside packages included, sorted."""
    return sorted({**TABLES[table], **_outside(table)})


def load(table: str, name: str) -> Any:
    """The object behind `name`. Raises `KeyError` with the known names when there is none."""
    reference = TABLES[table].get(name) or _outside(table).get(name)
    if reference is None:
        raise KeyError(f"no `{name}` in {table}; known: {', '.join(names(table))}")
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _outside(table: str) -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=f"dpo_recipes.{table}")}
