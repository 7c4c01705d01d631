"""Reads a foreign file: YAML, JSON, or a shell script that starts a tool."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dpo_recipes.errors import Finding, RecipeError, SharingError, Where
from dpo_recipes.recipe.load import DataPath, Span, parse_yaml
from dpo_recipes.share.foreign.config import Config, Unknown, make_config, without_secret
from dpo_recipes.share.foreign.shell import Command, commands_of

MAX_BYTES = 1_000_000
YAML_SUFFIXES = (".yaml", ".yml", ".json", ".jsonc")
_REFERENCE = re.compile(r"\$\{([^${}]*)\}")
_MAX_REFERENCES = 1000
_MAX_DEPTH = 10
_FIXES = {
    "R103": "keep one of them",
    "R104": "write the value without a tag",
    "R105": "write the values out instead of using aliases",
    "R109": "flatten it",
    "R110": "quote it, or remove it",
}


@dataclass(frozen=True)
class Document:
    """The text of a foreign file."""

    file: str
    folder: Path
    text: str

    @property
    def is_shell(self) -> bool:
        """Whether it is a shell script, by its suffix or its first line."""
        if Path(self.file).suffix.lower() in YAML_SUFFIXES:
            return False
        return Path(self.file).suffix.lower() in (".sh", ".bash") or self.text.startswith("#!")


def read_document(path: Path) -> Document:
    """The text of a file. Raises `SharingError` S501."""
    shown = str(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _unreadable(shown, f"it has more than {MAX_BYTES / 1e6:.0f} MB", "give the configuration of a job")
        raw = path.read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise _unreadable(shown, why, "give the path of a configuration of another tool") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        why = f"byte {error.start} is 0x{raw[error.start]:02x}, which is not UTF-8"
        raise _unreadable(shown, why, "save the file as UTF-8") from error
    return Document(shown, path.parent, text)


def read_mapping(document: Document) -> Config:
    """The configuration in a YAML or JSON document. Raises `SharingError` S502 and S503."""
    data, spans = parse_document(document)
    if not isinstance(data, dict) or not data:
        kind = "empty" if not data else "a list" if isinstance(data, list) else "a single value"
        raise SharingError.of(
            "S502",
            f"{document.file} is {kind}, not a configuration",
            where=Where(document.file),
            why="a configuration is a mapping of keys to values",
            fix="give the file that the other tool trains with",
        )
    data, spans = _merged(data, (), spans)
    return make_config(document.file, document.folder, _Resolver(data).value(data), spans)


def parse_document(document: Document) -> tuple[Any, Mapping[DataPath, Span]]:
    """The data and places of a YAML or JSON document. Raises `SharingError` S502 and S503."""
    try:
        return parse_yaml(document.text, document.file)
    except RecipeError as error:
        raise SharingError(*(_of_configuration(finding) for finding in error.findings)) from None


def read_commands(document: Document) -> list[Command]:
    """The commands of a shell script. Raises `SharingError` S502."""
    return commands_of(document.text, document.file)


def _unreadable(file: str, why: str, fix: str) -> SharingError:
    return SharingError.of("S501", f"cannot read {file}", where=Where(file), why=why, fix=fix)


def _of_configuration(finding: Finding) -> Finding:
    """A finding of the YAML reader, which speaks of recipes, about another tool's file."""
    code = "S503" if finding.code == "R103" else "S502"
    what = re.sub(r"\b(a|the|this) recipe\b", r"\1 configuration", finding.what)
    why = None if finding.why is None else re.sub(r"\b(a|the|this) recipe\b", r"\1 configuration", finding.why)
    if finding.code == "R110":
        why = "the keys of configurations are names"
    where = None if finding.where is None else without_secret(finding.where)
    return replace(finding, code=code, what=what, where=where, why=why, fix=_FIXES.get(finding.code, finding.fix))


def _merged(value: Any, path: DataPath, spans: Mapping[DataPath, Span]) -> tuple[Any, Mapping[DataPath, Span]]:
    """The data with YAML 1.1's merge keys `<<` resolved, as PyYAML does for these tools."""
    places = dict(spans)

    def walk(node: Any, at: DataPath) -> Any:
        if isinstance(node, list):
            return [walk(item, (*at, index)) for index, item in enumerate(node)]
        if not isinstance(node, dict):
            return node
        own = {key: walk(inner, (*at, key)) for key, inner in node.items() if key != "<<"}
        parents = node.get("<<")
        for index, parent in enumerate(parents if isinstance(parents, list) else [parents]):
            if not isinstance(parent, dict):
                continue
            start = (*at, "<<", index) if isinstance(parents, list) else (*at, "<<")
            for key, inner in parent.items():
                if key in own or key == "<<":
                    continue
                own[key] = walk(inner, (*start, key))
                for known in [known for known in places if known[: len(start) + 1] == (*start, key)]:
                    places[(*at, *known[len(start) :])] = places[known]
        return own

    return (walk(value, path), places) if "<<" in {key for at in spans for key in at} else (value, spans)


class _Resolver:
    """Resolves references `${section.key}` to other values, as OmegaConf does. What only an environment knows becomes
    `Unknown`, or has the default that the reference gives."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data, self.count = data, 0

    def value(self, value: Any, depth: int = 0) -> Any:
        """A value with its references resolved."""
        if isinstance(value, str):
            is_template = "{{" in value or "{%" in value
            return self._text(value, depth) if "${" in value and not is_template else value
        if isinstance(value, list):
            items = [self.value(item, depth) for item in value]
            return next((item for item in items if isinstance(item, Unknown)), items)
        if isinstance(value, dict):
            return {key: self.value(inner, depth) for key, inner in value.items()}
        return value

    def _text(self, text: str, depth: int) -> Any:
        parts: list[str] = []
        end = 0
        for match in _REFERENCE.finditer(text):
            value = self._referred(match[1], depth)
            if value is None or isinstance(value, dict | list | Unknown):
                return Unknown(text)
            if match[0] == text:
                return value
            parts += [text[end : match.start()], str(value)]
            end = match.end()
        return "".join([*parts, text[end:]]) if parts else Unknown(text)

    def _referred(self, reference: str, depth: int) -> Any:
        self.count += 1
        name, _, default = reference.partition(",")
        if self.count > _MAX_REFERENCES or depth >= _MAX_DEPTH:
            return None
        if ":" in reference:
            return default.strip().strip("'\"") or None
        value: Any = self.data
        for step in name.strip().split("."):
            if isinstance(value, list) and step.isdigit() and int(step) < len(value):
                value = value[int(step)]
            elif isinstance(value, dict) and step in value:
                value = value[step]
            else:
                return None
        return self.value(value, depth + 1)
