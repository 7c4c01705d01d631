"""Names the pair that an error is about, so that a person can find it in the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

LocateRow = Callable[[str, int], str]
"""The place in its source, such as `pairs.jsonl:12`, of a row, given by split and index."""


def name_pair(pairs: Any, index: int, split: str, locate: LocateRow | None = None) -> str:
    """A pair by its source's name and line, or by its number in the order of training if these are unknown."""
    row = pairs[index].get("row")
    if row is None or locate is None:
        return f"pair {index} of `{split}`"
    return f"the pair of {locate(split, int(row))} (`{split}`)"
