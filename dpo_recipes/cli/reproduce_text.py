"""What `dpo-recipe reproduce` prints."""

from __future__ import annotations

from collections.abc import Iterator

from dpo_recipes.formats import align_columns
from dpo_recipes.share.comparison import Comparison, Part

_STATES = {"equal": "equal", "close": "close", "different": "DIFFERENT", "unknown": "not compared"}


def describe_comparison(comparison: Comparison) -> Iterator[str]:
    """A table of the parts, the verdict, the first difference and its likely cause."""
    yield from align_columns([[part.name, _STATES[part.state], _text(part)] for part in comparison.parts])
    yield ""
    first = comparison.first_difference
    if comparison.verdict == "equal":
        yield "verdict   equal to the bit"
    elif comparison.verdict == "close":
        yield "verdict   equal within what the device allows, not to the bit"
    else:
        yield "verdict   different"
    if first is not None:
        yield f"first     {first.name}{f', {first.first}' if first.first else ''}"
        yield f"cause     {comparison.cause}"
    elif comparison.changes:
        yield f"although  {'; '.join(map(str, comparison.changes))}"


def _text(part: Part) -> str:
    if not part.largest:
        return part.text
    return f"{part.text}; largest difference {part.largest:.2g}, allowed {part.allowed:.2g}"
