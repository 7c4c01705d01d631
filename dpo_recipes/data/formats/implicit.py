"""TRL's preference rows whose prompt is implicit: two texts that begin alike, and no column for the prompt.

Source: `extract_prompt` in trl/data_utils.py (TRL 1.16), which cuts at the first character that differs, and before a
space that stands there. Here the cut never falls within a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpo_recipes.data.formats.messages import assistant_text, has, is_blank, user_text, with_system
from dpo_recipes.data.message import BadRow
from dpo_recipes.data.rows import DataFormat, PreferenceRow, SourceRow, preference, text_of

MIN_SHARED_CHARS = 10
"""Texts that share less are taken for two answers whose prompt is missing."""


def matches(columns: Mapping[str, Any]) -> bool:
    """Two texts that begin alike, and no prompt."""
    chosen, rejected = columns.get("chosen"), columns.get("rejected")
    if has(columns, "prompt") or not isinstance(chosen, str) or not isinstance(rejected, str):
        return False
    return _num_shared(chosen, rejected) >= MIN_SHARED_CHARS


def from_implicit_prompt(row: SourceRow) -> list[PreferenceRow]:
    """A preference from two texts; what they begin with is the user's message. Raises `BadRow`."""
    prompt, chosen, rejected = split_texts(row.columns.get("chosen"), row.columns.get("rejected"))
    asked = with_system([user_text(prompt.strip(), "chosen")], row.columns)
    better, worse = assistant_text(chosen.strip(), "chosen"), assistant_text(rejected.strip(), "rejected")
    return [preference(asked, [better], [worse], row)]


def split_texts(chosen: Any, rejected: Any) -> tuple[str, str, str]:
    """What two texts begin with alike, and how each continues. Raises `BadRow`.

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
        raise BadRow("no_shared_prompt", "chosen and rejected do not begin alike, and there is no `prompt`")
    if empty := next(
        (name for name, text in (("chosen", chosen), ("rejected", rejected)) if is_blank(text[cut:])), None
    ):
        raise BadRow("no_text", f"`{empty}` has nothing after the text that both begin with")
    return chosen[:cut], chosen[cut:], rejected[cut:]


def _num_shared(first: str, second: str) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(first), len(second)))


IMPLICIT_PROMPT = DataFormat(
    name="implicit_prompt",
    summary="`chosen` and `rejected` are texts that begin alike, and that beginning is the prompt",
    columns=("chosen", "rejected"),
    optional_columns=("system", "tools", "chat_template_kwargs"),
    example={
        "chosen": "What is the capital of Peru?\nLima.",
        "rejected": "What is the capital of Peru?\nMany cities could be named.",
    },
    matches=matches,
    to_rows=from_implicit_prompt,
    detect=False,
)
