"""A table of texts, which `table.html.jinja` draws."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    """A table of texts. `words` are the columns with words instead of numbers, `marked` is the row to highlight.
    `bars` are a share and a mark, from 0 to 1, for each row, which the page draws in the second column."""

    caption: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""
    words: tuple[int, ...] = ()
    marked: int | None = None
    bars: list[tuple[float, float]] = field(default_factory=list)
