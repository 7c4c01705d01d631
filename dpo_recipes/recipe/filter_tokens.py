"""Splits a filter into tokens, and compiles the patterns in it. `row_filter` describes and parses the language."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from typing import NamedTuple

_INSTEAD = {
    **{"=": "==", "===": "==", "<>": "!=", "!": "not", "&": "and", "&&": "and", "|": "or", "||": "or"},
    **{"AND": "and", "OR": "or", "NOT": "not", "IN": "in", "is": "is_null(...)", "IS": "is_null(...)"},
}
_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\", "'": "'", '"': '"'}
_TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)(?P<tail>\w*)
    |(?P<word>(?:and|or|not|in)\b) |(?P<instead>(?:AND|OR|NOT|IN|IS|is)\b|===|<>|&&?|\|\|?|=(?!=)|!(?!=))
    |(?P<name>[^\W\d]\w*(?:\.[^\W\d]\w*)*) |(?P<column>`[^`]+`)
    |(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*") |(?P<open>['"`].*)
    |(?P<unknown>\*\*|//|%) |(?P<sign>[=!<>]=|[<>()\[\],+*/-]) |(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_PATTERN_PIECE = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|(?P<open>\()|(?P<close>\))"
    r"|(?P<possessive>(?:[*+]|\{\d*,\d*\})\+)|(?P<repeat>[*+]|\{\d*,\d*\})|.",
    re.DOTALL,
)


class FilterSyntaxError(ValueError):
    """A filter with a syntax error, which is `length` characters long and starts at the 0-based `position`."""

    def __init__(self, message: str, position: int, length: int) -> None:
        self.message, self.position, self.length = message, position, length
        super().__init__(message)


class Token(NamedTuple):
    """One token: a number, word (and, or, not, in), name, column (in backquotes), text, sign, or the end."""

    kind: str
    text: str
    position: int


def tokens(text: str) -> list[Token]:
    """The tokens of a filter; the last one is `end`. Raises `FilterSyntaxError`."""
    found: list[Token] = []
    for match in _TOKEN.finditer(text):
        kind, piece = match.lastgroup or "", match[0]
        if kind == "tail" and not match["tail"]:
            kind = "number"
        faults = {
            "tail": f"a name cannot start with a digit; put it in backquotes: `` `{piece}` ``",
            "instead": f"`{piece}` is not known here; write `{_INSTEAD.get(piece)}`",
            "open": f"the quote {piece[0]} is not closed",
            "unknown": f"`{piece}` is not known here; the operators are `+ - * /`",
            "other": f"`{piece}` is not part of the filter language",
        }
        if kind in faults:
            raise FilterSyntaxError(faults[kind], match.start(), len(piece))
        if kind != "space":
            found.append(Token(kind, piece, match.start()))
    return [*found, Token("end", "", len(text))]


def no_function(name: str, known: Iterable[str]) -> str:
    """The message for a function that does not exist, with the name that was probably meant."""
    *column, last = name.split(".")
    if column and last in known:
        return f"there is no `{name}`; write `{last}({'.'.join(column)})`"
    close = get_close_matches(name, known, 1)
    return f"there is no function `{name}`; " + (
        f"did you mean `{close[0]}`?" if close else f"the functions are {', '.join(known)}"
    )


def unquoted(text: str) -> str:
    """The content of a quoted text. A backslash is kept unless it escapes a quote, a backslash, `n` or `t`."""
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[0]), text[1:-1], flags=re.DOTALL)


def compiled(pattern: str) -> re.Pattern[str]:
    """The compiled regular expression. Raises `ValueError` if it is invalid or may take exponential time on some
    text."""
    if _repeats_a_repeat(pattern):
        raise ValueError(
            "it repeats a repeat, which can take exponential time; make the inner one possessive, as in `(a++)+`"
        )
    try:
        with warnings.catch_warnings(action="ignore"):  # about syntax that a later Python may interpret differently
            return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _repeats_a_repeat(pattern: str) -> bool:
    holds_repeat = [False]  # for each open group, the outermost first
    closed_holds = False
    for match in _PATTERN_PIECE.finditer(pattern):
        kind = match.lastgroup
        if kind == "repeat" and closed_holds:
            return True
        closed_holds = False
        if kind == "open":
            holds_repeat.append(False)
        elif kind == "close" and len(holds_repeat) > 1:
            closed_holds = holds_repeat.pop()
            holds_repeat[-1] |= closed_holds
        elif kind == "repeat":
            holds_repeat[-1] = True
    return False
