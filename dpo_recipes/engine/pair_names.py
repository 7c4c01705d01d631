"""Which pair an error is about, in words that lead to it in the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Locate = Callable[[str, int], str]
"""Of a split and the place of one of its rows, where that row stands in its source: `pairs.jsonl:12`."""


def name_pair(pairs: Any, index: int, split: str, locate: Locate | None = None) -> str:
    """A pair by its source's name and line; by its number in the order of training where nobody knows these."""
    row = pairs[index].get("row")
    if row is None or locate is None:
        return f"pair {index} of `{split}`"
    return f"the pair of {locate(split, int(row))} (`{split}`)"
