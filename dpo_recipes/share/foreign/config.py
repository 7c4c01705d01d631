"""A foreign configuration after reading: its data, and each of its keys with its place."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dpo_recipes.errors import Where, path_text
from dpo_recipes.recipe.load import DataPath, Span
from dpo_recipes.recipe.secret_checks import has_secret, is_secret_key

_COMMENT = re.compile(r"""^(?:[^#"']|"[^"]*"|'[^']*')*?\s#\s*(?P<text>.*\S)\s*$""")


class Secret:
    """Stands for a value that looks like a secret, which is never copied."""


@dataclass(frozen=True)
class Unknown:
    """Stands for a value that only the environment of another machine knows, such as `${HOME}`."""

    text: str


@dataclass(frozen=True)
class Key:
    """One key of a foreign file that has a value and not further keys."""

    path: DataPath
    value: Any
    where: Where
    comment: str = ""
    """The comment at the end of its line."""

    @property
    def name(self) -> str:
        """Its path: `datasets[0].path`."""
        return path_text(self.path)


@dataclass(frozen=True)
class Config:
    """A configuration of another tool."""

    file: str
    """The name of its file, as messages show it."""
    folder: Path
    """The folder of its file."""
    data: dict[str, Any]
    keys: Mapping[DataPath, Key]
    """All keys that have a value and not further keys."""
    command: tuple[str, ...] = ()
    """The words of the command line before its options, such as `swift rlhf`; empty for a configuration file."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """The variables that a shell script sets."""

    @property
    def words(self) -> frozenset[str]:
        """The words in the path of the file, which often say what is trained."""
        near = [*Path(self.file).parts[-1:], *self.folder.resolve().parts[-2:]]
        return frozenset(word for part in near for word in re.split(r"[^a-z0-9]+", part.lower()) if word)

    def has(self, *names: str) -> bool:
        """Whether one of these keys is at the top of the configuration."""
        return any(name in self.data for name in names)

    def where(self, path: DataPath) -> Where:
        """The place of a key, or that of the first key below it."""
        for known, key in self.keys.items():
            if known[: len(path)] == path:
                return key.where
        return Where(self.file)


def make_config(file: str, folder: Path, data: dict[str, Any], spans: Mapping[DataPath, Span], **more: Any) -> Config:
    """The configuration of data with their places. Values that look like secrets are replaced by `Secret`."""
    cleaned = _without_secrets(data)
    keys = {}
    for path, value in _leaves(cleaned, ()):
        where = without_secret(_place(path, spans) or Where(file))
        keys[path] = Key(path, value, where, _comment(where))
    return Config(file, folder, cleaned, keys, **more)


def without_secret(where: Where) -> Where:
    """The place without its line, if that may have a secret."""
    text = where.text or ""
    is_safe = not has_secret(text) and not any(is_secret_key(word) for word in re.findall(r"\w+", text))
    return where if is_safe else replace(where, text=None)


def _place(path: DataPath, spans: Mapping[DataPath, Span]) -> Where | None:
    for length in range(len(path), -1, -1):
        span = spans.get(path[:length])
        if span is not None:
            return span.best
    return None


def _comment(where: Where) -> str:
    found = _COMMENT.match(where.text or "")
    return "" if found is None else found["text"]


def _leaves(value: Any, path: DataPath) -> Iterator[tuple[DataPath, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    elif isinstance(value, list) and any(isinstance(item, dict) and item for item in value):
        for index, inner in enumerate(value):
            yield from _leaves(inner, (*path, index))
    elif path:
        yield path, value


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: Secret() if is_secret_key(key) and inner not in (None, "", False) else _without_secrets(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        cleaned = [_without_secrets(item) for item in value]
        return Secret() if any(isinstance(item, Secret) for item in cleaned) else cleaned
    return Secret() if isinstance(value, str) and has_secret(value) else value
