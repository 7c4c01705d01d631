r"""Dialogues written as one text, `\n\nHuman: ...\n\nAssistant: ...`, as several datasets have them."""

from __future__ import annotations

import re
from typing import Any

from dpo_recipes.data.formats.messages import user_text
from dpo_recipes.data.rows import BadRow, Message, text_of

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def is_dialogue(value: Any) -> bool:
    """Whether a value is a text that begins with a turn of a dialogue."""
    return isinstance(value, str) and _TURN.match(value) is not None


def is_dialogue_prompt(value: Any) -> bool:
    """Whether a value is a dialogue that ends where the assistant is to speak."""
    return is_dialogue(value) and value.rstrip().endswith("\n\nAssistant:")


def parse_dialogue(text: str, column: str) -> list[Message]:
    """The turns of a dialogue, each stripped. Raises `BadRow`: `bad_dialogue`, and `no_text` for an empty turn."""
    turns = _turns(text, column)
    for number, turn in enumerate(turns, 1):
        if not turn["content"]:
            raise BadRow("no_text", f"turn {number} of `{column}` (`{turn['role']}`) is empty")
    return turns


def parse_prompt(value: Any, column: str) -> list[Message]:
    """The turns of a dialogue that ends with an empty `Assistant:`; a text that is no dialogue is a user's message.

    Raises `BadRow`.
    """
    if not is_dialogue(value):
        return [user_text(value, column)]
    text = text_of(value, column).rstrip()
    if not is_dialogue_prompt(text):
        raise BadRow("bad_dialogue", f"`{column}` does not end with `Assistant:`")
    return parse_dialogue(text.removesuffix("\n\nAssistant:"), column)


def _turns(text: str, column: str) -> list[Message]:
    head, *parts = _TURN.split(text)
    if head.strip() or not parts:
        raise BadRow("bad_dialogue", f"`{column}` does not begin with a Human or Assistant turn")
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return [Message(role=_ROLES[speaker], content=content.strip()) for speaker, content in pairs]
