"""Converts the values of foreign files, which their own tools convert too: `"5e-6"` is a number and `yes` is true."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

Kind = Callable[[Any], Any]

_TRUE, _FALSE = ("true", "yes", "on", "y", "1"), ("false", "no", "off", "n", "0")
NOTHING = ("", "null", "none", "~")


class WrongValue(ValueError):
    """Raised if a value is not of the kind that its key has; the text says what the key takes."""


def text(value: Any) -> str:
    """A text. A number is written as in the file."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return str(value).lower() if isinstance(value, bool) else str(value)
    raise WrongValue("a text")


def number(value: Any) -> float:
    """A finite number, also one that YAML 1.1 reads as text, such as 5e-6."""
    if isinstance(value, str):
        try:
            value = float(value.strip().replace("_", ""))
        except ValueError:
            raise WrongValue("a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise WrongValue("a number")
    return value if isinstance(value, int) and abs(value) < 2**53 else float(value)


def whole(value: Any) -> int:
    """A whole number, also one such as `4.0`."""
    found = number(value)
    if found != int(found):
        raise WrongValue("a whole number")
    return int(found)


def flag(value: Any) -> bool:
    """true or false, also as YAML 1.1 and command lines write them."""
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower() if isinstance(value, str | int) else ""
    if word in (*_TRUE, *_FALSE):
        return word in _TRUE
    raise WrongValue("true or false")


def names(value: Any) -> list[str]:
    """A list of texts, also one that is written as a text with commas or as JSON."""
    if isinstance(value, str):
        found = json_value(value)
        value = found if isinstance(found, list) else value.replace(",", " ").split()
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        return [text(item) for item in value]
    raise WrongValue("a list of names")


def numbers(value: Any) -> list[float]:
    """A list of numbers, also one that is written as a text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [float(value)]
    return [float(number(item)) for item in names(value)]


def mapping(value: Any) -> dict[str, Any]:
    """A mapping, also one that is written as JSON."""
    if isinstance(value, str):
        value = json_value(value)
    if isinstance(value, dict):
        return value
    raise WrongValue("a mapping")


def anything(value: Any) -> Any:
    """The value unchanged."""
    return value


def json_value(value: str) -> Any:
    """The list or mapping in a JSON text; any other text unchanged."""
    if not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def is_off(value: Any) -> bool:
    """Whether a value switches a feature off or says nothing."""
    if isinstance(value, str):
        return value.strip().lower() in (*NOTHING, "false", "no", "off", "0", "disabled")
    return value is None or value is False or (isinstance(value, int | float) and value == 0) or value in ([], {})
