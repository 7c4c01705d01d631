"""Parses the values of `columns:` in a recipe: the name of a column, a path into an object or list, or a text with
columns in braces."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_INDEX = re.compile(r"-?\d+")


class ColumnMapError(ValueError):
    """A value of `columns:` that cannot be parsed; the message says why."""


@dataclass(frozen=True)
class ColumnValue:
    """The rule that makes one column of a format from the columns of a row."""

    parts: tuple[tuple[str, str | None], ...]
    """Pairs of literal text and the column after it. A single pair with an empty text is the column itself, of any
    type."""

    @classmethod
    def column(cls, name: str) -> ColumnValue:
        """The rule for the unchanged value of one column."""
        return cls((("", name),))

    @property
    def names(self) -> frozenset[str]:
        """The top-level columns of a row that are used."""
        return frozenset(part for _, name in self.parts if name for part in (name, name.split(".")[0]))

    @property
    def has_index(self) -> bool:
        """Whether a path has the index of a list, which may be shorter in one row than in another."""
        return any(_INDEX.fullmatch(step) for _, name in self.parts if name for step in name.split("."))

    @property
    def single(self) -> str | None:
        """The column whose value is used unchanged, or None for a text with braces."""
        return self.parts[0][1] if len(self.parts) == 1 and not self.parts[0][0] else None

    def of(self, columns: Mapping[str, Any], as_text: Callable[[Any, str], str] | None = None) -> Any:
        """The value for a row. Raises `KeyError` with the name of a column that is missing.

        In a text with braces, null becomes an empty text, so that an empty `input` does not become `None`. `as_text`
        converts any other value, given with the name of its column, to text, or raises.
        """
        if self.single:
            return _lookup(columns, self.single)
        texts = []
        for literal, name in self.parts:
            value = _lookup(columns, name) if name else None
            texts.append(literal)
            if name and value is not None:
                texts.append(as_text(value, name) if as_text else str(value))
        return "".join(texts).strip()


def decoded(value: Any) -> Any:
    """The list or object in a JSON text, as CSV files contain it; any other value unchanged."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def parse_column(text: str) -> ColumnValue:
    """Parse the name of a column, or a text that contains `{column}`; `{{` is a literal brace.

    Dots reach into objects, lists (`output.0`, `turns.-1`) and the JSON text of both.

    Raises `ColumnMapError`.
    """
    if "{" not in text and "}" not in text:
        if not text:
            raise ColumnMapError("the name is empty")
        return ColumnValue.column(text)
    try:
        fields = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ColumnMapError(f"{error}; write a literal brace twice") from error
    for _, name, spec, conversion in fields:
        if name == "" or (name and (spec or conversion or "[" in name)):
            raise ColumnMapError("braces must contain the name of a column and nothing else")
    if not any(name for _, name, _, _ in fields):
        raise ColumnMapError("the braces contain no name of a column")
    return ColumnValue(tuple((literal, name) for literal, name, _, _ in fields))


def _lookup(columns: Mapping[str, Any], name: str) -> Any:
    if name in columns:
        return columns[name]
    value: Any = columns
    for step in name.split("."):
        value = decoded(value)
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, list) and _INDEX.fullmatch(step) and -len(value) <= int(step) < len(value):
            value = value[int(step)]
        else:
            raise KeyError(name)
    return value
