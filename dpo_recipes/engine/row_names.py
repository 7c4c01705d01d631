"""Names the row that an error is about, so that the user can find it in the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

LocateRow = Callable[[str, int], str]
"""The place in its source, such as `rows.jsonl:12`, of a row, given by split and index."""


def name_row(rows: Any, index: int, split: str, *, noun: str, locate: LocateRow | None = None) -> str:
    """A row by its source's name and line, or by its number in the order of training if these are unknown. `noun` is
    what the objective calls a row."""
    row = rows[index].get("row")
    if row is None or locate is None:
        return f"{noun} {index} of `{split}`"
    return f"the {noun} of {locate(split, int(row))} (`{split}`)"
