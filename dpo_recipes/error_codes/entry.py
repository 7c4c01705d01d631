"""The form of an error code's explanation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CodeEntry:
    """A short title for lists, and a text for `dpo-recipe explain`."""

    title: str
    text: str


def entry(title: str, *lines: str) -> CodeEntry:
    """An entry whose text is written line by line."""
    return CodeEntry(title, "\n".join(lines))
