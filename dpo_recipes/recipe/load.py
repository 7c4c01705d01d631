"""Loads YAML text as plain data together with the place of each value.

PyYAML parses the text into nodes (`yaml_nodes`, which refuses tags, deep nesting and aliases that multiply). This
module builds the data from the nodes, because it differs from PyYAML in three points: scalars follow the YAML 1.2 core
schema (https://yaml.org/spec/1.2.2/#103-core-schema: `5e-6` is a float, `no` and `1:30` are text), the line and column
of every key and value are recorded, and duplicate keys are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dpo_recipes.errors import Finding, RecipeError, Where
from dpo_recipes.recipe.yaml_nodes import Refused, compose_nodes

MAX_FILE_BYTES = 1_000_000

DataPath = tuple[str | int, ...]
"""Keys and list indices from the top of a recipe to one value, e.g. `("data", "train", 0, "path")`."""

_INT = re.compile(r"[-+]?[0-9]+")
_BASED_INT = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL_FLOATS = {
    text: float(text.replace(".", ""))
    for word in ("inf", "Inf", "INF")
    for text in (f".{word}", f"+.{word}", f"-.{word}")
} | {word: float("nan") for word in (".nan", ".NaN", ".NAN")}
_NULLS = ("", "~", "null", "Null", "NULL")
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_MAX_DIGITS = 100  # Python refuses to parse integers of several thousand digits


@dataclass(frozen=True)
class Span:
    """The place of one value, and that of its key (None for list items and the whole document)."""

    value: Where
    key: Where | None = None

    @property
    def best(self) -> Where:
        """The place to show for the entry as a whole: that of the key, or of the value if there is no key."""
        return self.key or self.value


@dataclass(frozen=True)
class RecipeSource:
    """One YAML document: its displayed name, text, plain data, and the span of every value."""

    file: str
    text: str
    data: dict[str, Any]
    spans: dict[DataPath, Span]


def load_file(path: Path) -> RecipeSource:
    """Load a recipe file. Raises `RecipeError` R101 (cannot be read), R106 (over 1 MB), R108 (not UTF-8)
    and those of `load_text`."""
    shown = _shown_path(path)
    try:
        size_bytes = path.stat().st_size
        if size_bytes > MAX_FILE_BYTES:
            raise RecipeError.of(
                "R106",
                f"{shown} is {size_bytes / 1e6:.1f} MB, too large for a recipe",
                where=Where(shown),
                why="a recipe describes a job in a few kilobytes; data belongs in separate files",
                fix="name the data files under `data.train[].path`",
            )
        raw = path.read_bytes()
    except OSError as error:
        raise RecipeError.of(
            "R101",
            f"cannot read the recipe {shown}",
            where=Where(shown),
            why=error.strerror or str(error),
            fix="give the path of a recipe file; `dpo-recipe ls` lists the shipped ones",
        ) from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise RecipeError.of(
            "R108",
            f"{shown} is not UTF-8 text",
            where=Where(shown, line, 1),
            why=f"byte {error.start} is 0x{raw[error.start]:02x}",
            fix="save the file as UTF-8",
        ) from error
    return load_text(text, shown)


def load_text(text: str, file: str) -> RecipeSource:
    """Parse one YAML document that must be a mapping.

    Raises `RecipeError` with every finding: R102 (syntax), R103 (duplicate key), R104 (tag), R105 (aliases
    that multiply), R107 (empty, or not a mapping), R109 (nested too deeply), R110 (a key that is not text).
    """
    data, spans = parse_yaml(text, file)
    if not isinstance(data, dict):
        what = "the recipe is empty" if data is None else "a recipe must be a mapping of sections"
        raise RecipeError.of(
            "R107",
            what,
            where=spans[()].value if data is not None else Where(file),
            why="a recipe has the keys `schema`, `name`, `model`, `data`, ...",
            fix="start from `dpo-recipe init` or `dpo-recipe cp quickstart`",
        )
    return RecipeSource(file, text, data, spans)


def parse_yaml(text: str, file: str) -> tuple[Any, dict[DataPath, Span]]:
    """The plain data and spans of one YAML document of any type (also the value of a `--set`)."""
    lines = text.splitlines()
    try:
        node = compose_nodes(text)
        if node is None:
            return None, {(): Span(Where(file))}
        builder = _Builder(file, lines)
        data = builder.build(node, (), None)
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, file, lines) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position)
        column = error.position - (text.rfind("\n", 0, error.position) + 1)
        shown = lines[line].replace(text[error.position], "?") if line < len(lines) else ""
        raise RecipeError.of(
            "R102",
            "this is not YAML",
            where=Where(file, line + 1, column + 1, 1, shown),
            why=f"character U+{ord(text[error.position]):04X} is not allowed in YAML",
            fix="delete the control character",
        ) from error
    if builder.findings:
        raise RecipeError(*builder.findings)
    return data, builder.spans


@dataclass
class _Builder:
    """Builds data from nodes, depth first, and collects all findings instead of stopping at the first."""

    file: str
    lines: list[str]
    spans: dict[DataPath, Span] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def build(self, node: yaml.Node, path: DataPath, key: Where | None) -> Any:
        where = self.where(node)
        self.spans[path] = Span(where, key)
        build: Callable[..., Any] = {
            yaml.ScalarNode: self._scalar,
            yaml.SequenceNode: self._list,
            yaml.MappingNode: self._mapping,
        }[type(node)]
        return build(node, path)

    def where(self, node: yaml.Node) -> Where:
        start, end = node.start_mark, node.end_mark
        text = self.lines[start.line] if start.line < len(self.lines) else ""
        on_one_line = isinstance(node, yaml.ScalarNode) and start.line == end.line
        length = end.column - start.column if on_one_line else len(text.rstrip()) - start.column
        return Where(self.file, start.line + 1, start.column + 1, max(1, length), text)

    def _scalar(self, node: yaml.ScalarNode, path: DataPath) -> Any:
        return node.value if node.style else resolve_scalar(node.value)

    def _list(self, node: yaml.SequenceNode, path: DataPath) -> list[Any]:
        return [self.build(child, (*path, index), None) for index, child in enumerate(node.value)]

    def _mapping(self, node: yaml.MappingNode, path: DataPath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            where = self.where(key_node)
            key = self._key(key_node, where)
            if key is None:
                continue
            if key in data:
                first = self.spans[(*path, key)].best
                self.findings.append(
                    Finding(
                        "R103",
                        f"the key `{key}` is set twice in one mapping",
                        where,
                        f"it is first set on line {first.line}, and it is unknown which of the two is meant",
                        "keep one of them",
                    )
                )
                continue
            data[key] = self.build(value_node, (*path, key), where)
        return data

    def _key(self, node: yaml.Node, where: Where) -> str | None:
        if isinstance(node, yaml.ScalarNode) and (node.style or isinstance(resolve_scalar(node.value), str)):
            return node.value
        self.findings.append(
            Finding(
                "R110",
                "a key must be text",
                where,
                "every key of a recipe is the name of a field",
                "quote it or remove it",
            )
        )
        return None


def resolve_scalar(text: str) -> Any:
    """The value of a plain (unquoted) scalar in the YAML 1.2 core schema."""
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if _INT.fullmatch(text):
        return int(text) if len(text) <= _MAX_DIGITS else text
    if _BASED_INT.fullmatch(text):
        return int(text, 0) if len(text) <= _MAX_DIGITS else text
    if _FLOAT.fullmatch(text):
        return float(text)
    return _SPECIAL_FLOATS.get(text, text)


def _syntax_error(error: yaml.MarkedYAMLError, file: str, lines: list[str]) -> RecipeError:
    mark = error.problem_mark or error.context_mark
    if error.context_mark and mark and mark.line >= len(lines):
        mark = error.context_mark  # the start of an unclosed item is more useful than the end of the file
    where = Where(file)
    if mark is not None:
        text = lines[mark.line] if mark.line < len(lines) else ""
        where = Where(file, mark.line + 1, mark.column + 1, 1, text)
    if isinstance(error, Refused):
        return RecipeError.of(error.code, error.what, where=where, why=error.why, fix=error.fix)
    why = " ".join(part for part in (error.context, error.problem) if part)
    return RecipeError.of("R102", "this is not valid YAML", where=where, why=why, fix=_syntax_hint(why, where))


def _syntax_hint(why: str, where: Where) -> str:
    if "\\t" in why:
        return "indent with spaces, not tabs"
    if "mapping values are not allowed" in why:
        return "quote text that contains a colon, or check the indentation of this line and the one above"
    if "single document" in why:
        return "a file contains one recipe: remove the second `---`"
    if "undefined alias" in why:
        return "quote text that starts with `*`, or define the anchor first"
    return "check quotes, brackets and indentation here and on the line above"


def _shown_path(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except (ValueError, OSError, RuntimeError):  # RuntimeError: links form a cycle, before Python 3.13
        return str(path)
