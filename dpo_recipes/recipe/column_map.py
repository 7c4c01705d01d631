"""The values of `columns:` in a recipe: a column's name, a way into an object or list, or a text with braces."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_INDEX = re.compile(r"-?\d+")


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

    @property
    def has_index(self) -> bool:
        """Whether a way goes into a list, which may be shorter in one row than in another."""
        return any(_INDEX.fullmatch(step) for _, name in self.parts if name for step in name.split("."))

    @property
    def single(self) -> str | None:
        """The column that is taken as it is; none for a text with braces."""
        return self.parts[0][1] if len(self.parts) == 1 and not self.parts[0][0] else None

    def of(self, columns: Mapping[str, Any], as_text: Callable[[Any, str], str] | None = None) -> Any:
        """The value for a row. Raises `KeyError` with the name of a column that is not there.

        In a text with braces, null stands for nothing, so that an empty `input` leaves no `None` behind; `as_text`
        gives the text of any other value and its name, or raises.
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
    """The list or object that a text is the JSON of, as a CSV file writes it; any other value as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def parse_column(text: str) -> ColumnValue:
    """A column's name, or a text with `{column}` in it; `{{` is a brace.

    Dots go into objects, lists (`output.0`, `turns.-1`) and the JSON text of both.

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
        value = decoded(value)
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, list) and _INDEX.fullmatch(step) and -len(value) <= int(step) < len(value):
            value = value[int(step)]
        else:
            raise KeyError(name)
    return value
