"""TRL's preference rows with an implicit prompt: two texts that share a beginning, and no column for the prompt.

Source: `extract_prompt` in trl/data_utils.py (TRL 1.16), which splits at the first character that differs, or before
the space in front of it. Here the split never falls within a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpo_recipes.data.formats.messages import TEMPLATE_COLUMNS, assistant_text, has, is_blank, user_text, with_system
from dpo_recipes.data.message import BadRow
from dpo_recipes.data.rows import DataFormat, Row, SourceRow, preference, text_of

MIN_SHARED_CHARS = 10
"""The minimum length of a shared beginning in characters. With less, a row has two answers and no prompt."""


def matches(columns: Mapping[str, Any]) -> bool:
    """Whether a row has two texts that share a beginning, and no prompt."""
    chosen, rejected = columns.get("chosen"), columns.get("rejected")
    if has(columns, "prompt") or not isinstance(chosen, str) or not isinstance(rejected, str):
        return False
    return _num_shared(chosen, rejected) >= MIN_SHARED_CHARS


def from_implicit_prompt(row: SourceRow) -> list[Row]:
    """A preference from two texts whose common beginning becomes the user's message. Raises `BadRow`."""
    prompt, chosen, rejected = split_texts(row.columns.get("chosen"), row.columns.get("rejected"))
    asked = with_system([user_text(prompt.strip(), "chosen")], row.columns)
    better, worse = assistant_text(chosen.strip(), "chosen"), assistant_text(rejected.strip(), "rejected")
    return [preference(asked, [better], [worse], row)]


def split_texts(chosen: Any, rejected: Any) -> tuple[str, str, str]:
    """The common beginning of two texts, and the rest of each. Raises `BadRow`.

    A space before the first difference belongs to the answers, a line break to the prompt.
    """
    chosen, rejected = text_of(chosen, "chosen"), text_of(rejected, "rejected")
    if chosen == rejected:
        raise BadRow("equal_answers", "chosen and rejected are equal")
    cut = _num_shared(chosen, rejected)
    nexts = chosen[cut : cut + 1], rejected[cut : cut + 1]
    if any(character.isalnum() for character in nexts):
        while cut and chosen[cut - 1].isalnum():
            cut -= 1
    if cut and chosen[cut - 1] == " ":
        cut -= 1
    if is_blank(chosen[:cut]):
        raise BadRow("no_shared_prompt", "chosen and rejected share no beginning, and there is no `prompt`")
    if empty := next(
        (name for name, text in (("chosen", chosen), ("rejected", rejected)) if is_blank(text[cut:])), None
    ):
        raise BadRow("no_text", f"`{empty}` has no text after the common beginning")
    return chosen[:cut], chosen[cut:], rejected[cut:]


def _num_shared(first: str, second: str) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(first), len(second)))


IMPLICIT_PROMPT = DataFormat(
    name="implicit_prompt",
    summary="`chosen` and `rejected` are texts with a common beginning, which is the prompt",
    columns=("chosen", "rejected"),
    optional_columns=TEMPLATE_COLUMNS,
    example={
        "chosen": "What is the capital of Peru?\nLima.",
        "rejected": "What is the capital of Peru?\nMany cities could be named.",
    },
    matches=matches,
    to_rows=from_implicit_prompt,
    detect=False,
)
