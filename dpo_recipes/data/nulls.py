"""Recognizes missing values: nulls that Arrow fills in, and words such as `None` that programs write for null."""

from __future__ import annotations

import math
from typing import Any

NULL_WORDS = frozenset(("null", "none", "nan", "<na>", "nat", "n/a", "#n/a"))
"""Words that programs write for a missing value, in lower case."""
_PARAMETERS = "properties"
"""The keys inside this keyword of a JSON schema are names of parameters, not keywords."""


def is_nothing(value: Any) -> bool:
    """Whether an optional value is missing: null, NaN, blank, empty, or a word that programs write for null."""
    if isinstance(value, str):
        text = value.strip()
        return not text or text.lower() in NULL_WORDS or text == "NA"  # `NA` is R's; `Na` may be sodium
    return value is None or value in ([], {}) or (isinstance(value, float) and math.isnan(value))


def without_filled_nulls(value: Any, *, is_schema: bool = False) -> Any:
    """The value of a column without the keys that only Arrow added.

    In Arrow all objects of a column have the same keys, with null for those that a row lacks. Null elements of a list,
    such as those of `enum`, are kept because Arrow adds none. A null `default` of a JSON schema is kept too, since it
    may have been in the row.
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
