"""A table of texts, which `table.html.jinja` draws."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table of texts. `words` are the columns with words instead of numbers, `marked` is the row to highlight."""

    caption: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""
    words: tuple[int, ...] = ()
    marked: int | None = None
