"""Evaluates the operators and functions of a filter on the values of a row. `row_filter` describes their syntax."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Number
from re import compile as compile_pattern
from typing import Any, Literal, SupportsFloat

MAX_REGEX_TEXT_CHARS = 100_000

Columns = Mapping[str, Any]
Kind = Literal["truth", "number", "text", "null", "list", "column"]
"""The type of an expression as far as it is known before any row is read; a column can have any type."""


class FilterTypeError(ValueError):
    """A row on which a filter cannot be evaluated: a column is missing, or its type does not fit."""


class _NoColumn(FilterTypeError):
    pass


@dataclass(frozen=True)
class Node:
    """One expression: its text and 0-based position in the filter, its type, and the function that evaluates it on a
    row."""

    text: str
    position: int
    kind: Kind
    value: Callable[[Columns], Any]
    is_literal: bool = False
    """Whether the value is written in the filter itself."""


def constant(value: Any) -> Callable[[Columns], Any]:
    """A function that returns the same value for each row."""
    return lambda _: value


def _contains(text: str, part: str) -> bool:
    return part in text


def _matches(text: str, pattern: Any) -> bool:
    if len(text) > MAX_REGEX_TEXT_CHARS:
        raise FilterTypeError(
            f"`matches` accepts texts of up to {MAX_REGEX_TEXT_CHARS:,} characters, not {len(text):,}"
        )
    return pattern.search(text) is not None


def _is_null(node: Node) -> Callable[[Columns], bool]:
    def value(row: Columns) -> bool:
        try:
            return node.value(row) is None
        except _NoColumn:
            return True

    return value


FUNCTIONS: dict[str, tuple[int, Kind, Callable[..., Any]]] = {
    "len": (1, "number", len),  # characters of a text, items of a list
    "words": (1, "number", lambda text: len(text.split())),
    "lower": (1, "text", str.lower),
    "contains": (2, "truth", _contains),
    "startswith": (2, "truth", str.startswith),
    "endswith": (2, "truth", str.endswith),
    "matches": (2, "truth", _matches),  # the second argument is a compiled pattern
    "is_null": (1, "truth", operator.not_),  # checks whether the column exists, too: see `call`
}
"""For each function: the number of its arguments, the type of its result, and its implementation for values that are
not null."""
_ARITHMETIC = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
_ORDER = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_NUMBER = compile_pattern(r"\s*[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?\s*")


def column(name: str) -> Callable[[Columns], Any]:
    """A function that returns the value of a column and raises `FilterTypeError` if there is none. Dots reach into
    objects, unless the row has a column with the whole name."""

    def value(row: Columns) -> Any:
        if name in row:
            return _plain(row[name])
        found: Any = row
        for step in name.split("."):
            if found is None:
                return None
            if not isinstance(found, Mapping) or step not in found:
                raise _NoColumn(f"there is no column `{name}`; the row has {', '.join(map(str, row))}")
            found = found[step]
        return _plain(found)

    return value


def truth(node: Node, row: Columns) -> bool:
    """Whether an expression is true; null counts as false. Raises `FilterTypeError`."""
    value = node.value(row)
    if isinstance(value, str) and value.strip().lower() in ("true", "false", ""):  # as written in CSV files
        return value.strip().lower() == "true"
    if value is None or isinstance(value, bool):
        return bool(value)
    raise FilterTypeError(f"`{node.text}` is {_shown(value)}, neither true nor false")


def call(name: str, arguments: Sequence[Node]) -> Callable[[Columns], Any]:
    """A function that evaluates a call of `FUNCTIONS`; the result is null if one of the arguments is null."""
    if name == "is_null":
        return _is_null(arguments[0])
    function = FUNCTIONS[name][2]

    def value(row: Columns) -> Any:
        values = [argument.value(row) for argument in arguments]
        if any(one is None for one in values):
            return None
        for argument, one in zip(arguments, values, strict=True):
            fits = isinstance(one, str) or (name == "len" and isinstance(one, list | Mapping))
            if not (fits or argument.is_literal):
                raise FilterTypeError(f"`{argument.text}` is {_shown(one)}, but `{name}` needs a text")
        return function(*values)

    return value


def calculation(signs: Sequence[str], nodes: Sequence[Node]) -> Callable[[Columns], Any]:
    """A function that evaluates `nodes[0] signs[0] nodes[1] signs[1] ...` from the left. The result is null if an
    operand is null or after a division by zero."""

    def value(row: Columns) -> Any:
        total = _operand(nodes[0], row)
        for sign, node in zip(signs, nodes[1:], strict=True):
            number = _operand(node, row)
            try:
                total = None if total is None or number is None else _plain(_ARITHMETIC[sign](total, number))
            except ZeroDivisionError:
                total = None
            except OverflowError as error:
                raise FilterTypeError(f"with `{node.text}` the number becomes too large") from error
        return total

    return value


def _operand(node: Node, row: Columns) -> int | float | None:
    value = node.value(row)
    number = _number(value)
    if number is None or _is_number(number):
        return number
    raise FilterTypeError(f"`{node.text}` is {_shown(value)}, not a number")


def comparison(sign: str, left: Node, right: Node) -> Callable[[Columns], bool]:
    """A function that says whether `left sign right` is true for a row. The signs are those of `_ORDER`, `==`, `!=`,
    `in` and `not in`."""
    if "null" in (left.kind, right.kind):
        asks = _is_null(right if left.kind == "null" else left)
        return lambda row: asks(row) is (sign == "==")

    left_is_null = _is_null(left)

    def holds(row: Columns) -> bool:
        if right.kind == "list" and left_is_null(row):
            return sign == "in" and None in right.value(row)
        a, b = left.value(row), right.value(row)
        if a is None or b is None:
            return False
        if sign in _ORDER:
            result = _ordered(_ORDER[sign], a, b)
        else:
            result = _equal(a, b) if sign in ("==", "!=") else _is_member(a, b)
        if result is NotImplemented:
            reason = f"`{left.text}` is {_shown(a)} and `{right.text}` is {_shown(b)}"
            raise FilterTypeError(f"{reason}: `{sign}` does not fit them")
        return result is (sign not in ("!=", "not in"))

    return holds


def _equal(a: Any, b: Any) -> Any:
    """True, false, or None for an empty text and a number; NotImplemented for lists and objects."""
    if isinstance(a, list | Mapping) or isinstance(b, list | Mapping):
        return NotImplemented
    if isinstance(a, str) and isinstance(b, str):
        return a == b
    if isinstance(a, bool) and isinstance(b, str):
        a, b = b, a
    if isinstance(a, str) and isinstance(b, bool):
        return a.strip().lower() == str(b).lower()
    a, b = _number(a), _number(b)
    return None if a is None or b is None else bool(a == b)


def _ordered(compare: Callable[[Any, Any], bool], a: Any, b: Any) -> Any:
    x, y = _number(a), _number(b)
    if isinstance(a, str) and isinstance(b, str) and (isinstance(x, str) or isinstance(y, str)):
        return compare(a, b)
    if x is None or y is None:
        return None
    return compare(x, y) if _is_number(x) and _is_number(y) else NotImplemented


def _is_member(a: Any, b: Any) -> Any:
    """Whether `a` is in a list or a part of a text; None if it equals no item but cannot be compared with one."""
    if isinstance(a, str) and isinstance(b, str):
        return a in b
    if not isinstance(b, list):
        return NotImplemented
    results = [_equal(a, item) for item in map(_plain, b) if item is not None]
    if any(result is True for result in results):
        return True
    unclear = (result for result in results if result is not False)
    return next(unclear, False)


def _plain(value: Any) -> Any:
    """A value of a file, converted to null, true or false, a number, a text, a list or an object."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if value is None or isinstance(value, str | int | list | Mapping):
        return value
    if hasattr(value, "isoformat"):  # dates and times of parquet files
        return value.isoformat()
    if isinstance(value, Number) and isinstance(value, SupportsFloat):  # decimals of parquet files
        return _plain(float(value))
    return value


def _number(value: Any) -> Any:
    """The number that a text represents, or None for an empty text; any other value unchanged."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    if len(value) > 100 or not _NUMBER.fullmatch(value):
        return value
    return float(value) if set(value) & set(".eE") else int(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return f"the text {value if len(value) <= 40 else value[:37] + '...'!r}"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, Mapping):
        return "an object"
    return str(value).lower() if isinstance(value, bool) else f"{value!r:.40}"
