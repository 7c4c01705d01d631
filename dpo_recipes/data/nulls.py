"""Values that stand for nothing: nulls that Arrow fills in, and the words that programs write for them."""

from __future__ import annotations

import math
from typing import Any

_WORDS = frozenset(("null", "none", "nan", "<na>", "nat"))
_PARAMETERS = "properties"
"""Below it the keys of a JSON schema are names of parameters, and no keywords."""


def is_nothing(value: Any) -> bool:
    """Whether an optional value is null, blank, empty, or a word that a program writes for null."""
    if isinstance(value, str):
        text = value.strip()
        return not text or text.lower() in _WORDS
    return value is None or value in ([], {}) or (isinstance(value, float) and math.isnan(value))


def without_filled_nulls(value: Any, *, is_schema: bool = False) -> Any:
    """A value of a column without the keys that only Arrow gave it.

    In Arrow all objects of a column have the same keys, and null where a row has none. Null elements of a list, such
    as those of `enum`, were in the row; so was a null `default` of a JSON schema, as far as anybody can know.
    """
    if isinstance(value, list):
        return [without_filled_nulls(part, is_schema=is_schema) for part in value]
    if not isinstance(value, dict):
        return value
    kept = {}
    for key, part in value.items():
        if part is not None:
            kept[key] = _schema_part(key, part) if is_schema else without_filled_nulls(part)
        elif is_schema and key == "default":
            kept[key] = None
    return kept


def _schema_part(key: str, part: Any) -> Any:
    if key == _PARAMETERS and isinstance(part, dict):
        return {
            name: without_filled_nulls(schema, is_schema=True) for name, schema in part.items() if schema is not None
        }
    return without_filled_nulls(part, is_schema=True)
