"""The values of `columns:` in a recipe: a column's name, a way into an object, or a text with braces."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class ColumnMapError(ValueError):
    """A value of `columns:` cannot be read; the message says why."""


@dataclass(frozen=True)
class ColumnValue:
    """How one column of a format is made from the columns of a row."""

    parts: tuple[tuple[str, str | None], ...]
    """Literal text and the column after it, in turn; one part with no text is the column itself, of any type."""

    @classmethod
    def column(cls, name: str) -> ColumnValue:
        """The value of one column as it is."""
        return cls((("", name),))

    @property
    def names(self) -> frozenset[str]:
        """The columns at the top of a row that are used."""
        return frozenset(part for _, name in self.parts if name for part in (name, name.split(".")[0]))

    def of(self, columns: Mapping[str, Any]) -> Any:
        """The value for a row. Raises `KeyError` with the name of a column that is not there.

        In a text with braces, null stands for nothing, so that an empty `input` leaves no `None` behind.
        """
        if len(self.parts) == 1 and not self.parts[0][0] and self.parts[0][1]:
            return _lookup(columns, self.parts[0][1])
        texts = []
        for literal, name in self.parts:
            value = _lookup(columns, name) if name else None
            texts.append(literal + ("" if value is None else str(value)))
        return "".join(texts).strip()


def parse_column(text: str) -> ColumnValue:
    """A column's name (dots go into objects), or a text with `{column}` in it; `{{` is a brace.

    Raises `ColumnMapError`.
    """
    if "{" not in text and "}" not in text:
        if not text:
            raise ColumnMapError("the name is empty")
        return ColumnValue.column(text)
    try:
        fields = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ColumnMapError(f"{error}; a brace that is meant as such is written twice") from error
    for _, name, spec, conversion in fields:
        if name == "" or (name and (spec or conversion or "[" in name)):
            raise ColumnMapError("between braces stands the name of a column and nothing else")
    if not any(name for _, name, _, _ in fields):
        raise ColumnMapError("no column is named between the braces")
    return ColumnValue(tuple((literal, name) for literal, name, _, _ in fields))


def _lookup(columns: Mapping[str, Any], name: str) -> Any:
    if name in columns:
        return columns[name]
    value: Any = columns
    for step in name.split("."):
        if not isinstance(value, Mapping) or step not in value:
            raise KeyError(name)
        value = value[step]
    return value
