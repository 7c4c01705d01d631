r"""Anthropic's hh-rlhf: two whole dialogues `\n\nHuman: ... \n\nAssistant: ...` that differ in their last answer.

Source: https://huggingface.co/datasets/Anthropic/hh-rlhf
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dpo_recipes.data.rows import (
    BadRow,
    DataFormat,
    Message,
    PreferenceRow,
    SourceRow,
    split_shared_prompt,
    text_of,
)

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def matches(columns: Mapping[str, Any]) -> bool:
    """Two dialogue texts and no prompt."""
    return columns.get("prompt") is None and all(
        isinstance(columns.get(name), str) and _TURN.match(columns[name]) for name in ("chosen", "rejected")
    )


def to_row(row: SourceRow) -> PreferenceRow:
    """A preference from two dialogues that begin alike. Raises `BadRow`."""
    chosen = parse_dialogue(text_of(row.columns.get("chosen"), "chosen"), "chosen")
    rejected = parse_dialogue(text_of(row.columns.get("rejected"), "rejected"), "rejected")
    prompt, chosen_tail, rejected_tail = split_shared_prompt(chosen, rejected)
    for name, tail in (("chosen", chosen_tail), ("rejected", rejected_tail)):
        if not all(message["content"] for message in tail if message["role"] == "assistant"):
            raise BadRow("no_text", f"the answer in `{name}` is empty")
    return PreferenceRow(prompt, chosen_tail, rejected_tail, row.where)


def parse_dialogue(text: str, column: str) -> list[Message]:
    """The turns of a dialogue, each stripped. Raises `BadRow` `bad_dialogue` when it is not one."""
    head, *parts = _TURN.split(text)
    if head.strip() or not parts:
        raise BadRow("bad_dialogue", f"`{column}` does not begin with a Human or Assistant turn")
    turns = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": _ROLES[speaker], "content": content.strip()} for speaker, content in turns]


FORMAT = DataFormat(
    name="hh_rlhf",
    summary="chosen and rejected are whole Human/Assistant dialogues that begin alike",
    columns=("chosen", "rejected"),
    example={
        "chosen": "\n\nHuman: What is the capital of Peru?\n\nAssistant: Lima.",
        "rejected": "\n\nHuman: What is the capital of Peru?\n\nAssistant: I would rather not say.",
    },
    matches=matches,
    to_row=to_row,
)
