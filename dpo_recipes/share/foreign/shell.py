"""Reads shell scripts as far as command lines of training tools need: words, quotes, continued lines, variables that
the script itself sets, and sums. Nothing is executed."""

from __future__ import annotations

import ast
import bisect
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dpo_recipes.errors import SharingError, Where
from dpo_recipes.recipe.load import resolve_scalar
from dpo_recipes.share.foreign.config import Unknown, without_secret

_ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)=(.*)", re.DOTALL)
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::?-([^{}]*))?\})")
_ODD_EXPANSION = re.compile(r"\$(\{[^}\n]*\}|\S)?")
_OPTION = re.compile(r"--?[A-Za-z][\w.-]*(=.*)?", re.DOTALL)
_OPERATORS: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,
    ast.Mod: operator.mod,
}
_MAX_NUMBER = 10**12


@dataclass(frozen=True)
class Word:
    """A word of a command and its place. `text` is None if only the machine that runs the script knows it."""

    text: str | None
    raw: str
    where: Where
    is_quoted: bool = False


@dataclass(frozen=True)
class Command:
    """One command of a script."""

    words: tuple[Word, ...]
    environment: Mapping[str, Word] = field(default_factory=dict)
    """The variables that the script sets for it, and those before it that it exports or sets."""

    @property
    def texts(self) -> list[str]:
        """The words as texts; an unknown one as it is written."""
        return [word.raw if word.text is None else word.text for word in self.words]


def commands_of(text: str, file: str) -> list[Command]:
    """The commands of a script in their order. Raises `SharingError` S502 for a quote without an end."""
    return _Scanner(text, file).commands()


def options_of(words: tuple[Word, ...]) -> tuple[list[Word], list[tuple[str, Word, Any]]]:
    """The words before the first option, and the options with the words of their names and their values. An option
    without a value is true; one with several has a list."""
    before: list[Word] = []
    options: list[tuple[str, Word, Any]] = []
    values: list[Any] = []
    for word in words:
        written = word.raw if word.text is None else word.text
        if _OPTION.fullmatch(written) and not word.is_quoted:
            name, equals, value = written.lstrip("-").partition("=")
            values = [_value(value, word)] if equals else []
            options.append((name, word, values))
        elif not options:
            before.append(word)
        else:
            values.append(_value(word.text, word))
    return before, [(name, word, _one_or_all(found)) for name, word, found in options]


def _one_or_all(values: list[Any]) -> Any:
    unknown = next((value for value in values if isinstance(value, Unknown)), None)
    return True if not values else unknown if unknown is not None else values[0] if len(values) == 1 else values


def _value(text: str | None, word: Word) -> Any:
    if text is None:
        return Unknown(word.raw)
    return text if text != text.strip() else resolve_scalar(text)


class _Scanner:
    """Divides a script into commands."""

    def __init__(self, text: str, file: str) -> None:
        self.text, self.file, self.lines = text, file, text.split("\n")
        self.line_starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self.at = 0
        self.variables: dict[str, Word] = {}

    def commands(self) -> list[Command]:
        """All commands that are not assignments alone."""
        found, words = [], []
        while self.at < len(self.text):
            char = self.text[self.at]
            if char in " \t\r":
                self.at += 1
            elif self.text.startswith("\\\n", self.at) or self.text.startswith("\\\r\n", self.at):
                self.at = self.text.index("\n", self.at) + 1
            elif char == "#":
                self.at = self._end_of_line()
            elif char in "\n;|&()":
                self.at += 1
                found += self._command(words)
                words = []
            else:
                words.append(self._word())
        return found + self._command(words)

    def _end_of_line(self) -> int:
        end = self.text.find("\n", self.at)
        return len(self.text) if end < 0 else end

    def _command(self, words: list[Word]) -> list[Command]:
        environment: dict[str, Word] = {}
        while words:
            is_export = words[0].raw == "export" and len(words) > 1
            word = words[1] if is_export else words[0]
            match = _ASSIGNMENT.fullmatch(word.raw)
            if match is None:
                break
            _, equals, value = (word.text or "").partition("=")
            environment[match[1]] = Word(value if equals and word.text is not None else None, match[2], word.where)
            words = words[2 if is_export else 1 :]
            self.variables |= environment if is_export else {}
        if not words:
            self.variables |= environment
            return []
        return [Command(tuple(words), {**self.variables, **environment})]

    def _word(self) -> Word:
        start, parts, is_known, is_quoted = self.at, [], True, False
        while self.at < len(self.text):
            char = self.text[self.at]
            if char in " \t\r\n;|&()":
                break
            if char in "'\"":
                is_quoted = is_quoted or self.at == start
                part = self._quoted(char)
            elif char == "\\":
                skipped = self.text[self.at + 1 : self.at + 2]
                part, self.at = ("" if skipped in "\r\n" else skipped), self.at + 2
            elif char in "$`":
                part = self._expansion()
            else:
                part, self.at = char, self.at + 1
            is_known = is_known and part is not None
            parts.append(part or "")
        raw = self.text[start : self.at]
        return Word("".join(parts) if is_known else None, raw, self._where(start), is_quoted)

    def _quoted(self, quote: str) -> str | None:
        start, parts, is_known = self.at, [], True
        self.at += 1
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == quote:
                self.at += 1
                return "".join(parts) if is_known else None
            if quote == '"' and char == "\\" and self.text[self.at + 1 : self.at + 2] in ('"', "\\", "$", "`", "\n"):
                parts.append(self.text[self.at + 1].replace("\n", ""))
                self.at += 2
            elif quote == '"' and char in "$`":
                part = self._expansion()
                is_known = is_known and part is not None
                parts.append(part or "")
            else:
                parts.append(char)
                self.at += 1
        raise SharingError.of(
            "S502",
            "a quote has no end",
            where=self._where(start),
            why=f"the text after this {quote} goes on to the end of the file",
            fix="close the quote",
        )

    def _expansion(self) -> str | None:
        """The value of a variable or sum at this place; None if it is not known."""
        for opening, closing in (("$((", "))"), ("$(", ")"), ("`", "`")):
            if self.text.startswith(opening, self.at):
                end = self._closing(opening, closing)
                inner = self.text[self.at + len(opening) : end]
                self.at = end + len(closing)
                return self._sum(inner)
        match = _VARIABLE.match(self.text, self.at)
        if match is None:
            end = _ODD_EXPANSION.match(self.text, self.at)
            self.at += len(end[0]) if end else 1
            return None
        self.at = match.end()
        return self._variable(match)

    def _closing(self, opening: str, closing: str) -> int:
        depth, at = 0, self.at + len(opening)
        while at < len(self.text):
            if self.text.startswith(closing, at) and depth == 0:
                return at
            depth += {"(": 1, ")": -1}.get(self.text[at], 0)
            at += 1
        return len(self.text)

    def _variable(self, match: re.Match[str]) -> str | None:
        word = self.variables.get(match[1] or match[2])
        return match[3] if word is None else word.text

    def _sum(self, text: str) -> str | None:
        """The result of `expr 16 / $n` or `16 / n` with whole numbers."""
        is_known = True

        def known(match: re.Match[str]) -> str:
            nonlocal is_known
            value = self._variable(match)
            is_known = is_known and value is not None
            return value or ""

        text = _VARIABLE.sub(known, text.strip().removeprefix("expr ").replace("\\", ""))
        text = re.sub(r"[A-Za-z_]\w*", lambda name: ((w := self.variables.get(name[0])) and w.text) or name[0], text)
        if not is_known or len(text) > 100 or not re.fullmatch(r"[\d+*/%() -]+", text):
            return None
        try:
            return str(_evaluate(ast.parse(text.strip(), mode="eval").body))
        except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
            return None

    def _where(self, start: int) -> Where:
        line = bisect.bisect_right(self.line_starts, start) - 1
        column, shown = start - self.line_starts[line], self.lines[line].rstrip("\r")
        end = next((at for at in range(column, len(shown)) if shown[at] in " \t=\\"), len(shown))
        return without_secret(Where(self.file, line + 1, column + 1, max(1, end - column), shown))


def _evaluate(node: Any) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int) and abs(node.value) < _MAX_NUMBER:
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        result = _OPERATORS[type(node.op)](_evaluate(node.left), _evaluate(node.right))
        if abs(result) < _MAX_NUMBER:
            return result
    raise ValueError("not a sum of whole numbers")
