r"""Parses dialogues that are written as one text, `\n\nHuman: ...\n\nAssistant: ...`.

A turn starts at the beginning of the text or after a blank line. Line breaks may be those of Windows, and there may be
spaces around the names. If no turn follows a blank line, a turn may start at the beginning of any line.
"""

from __future__ import annotations

import re
from typing import Any

from dpo_recipes.data.formats.messages import user_text
from dpo_recipes.data.rows import BadRow, Message, text_of

_FIRST = re.compile(r"\s*(Human|Assistant)[ \t]*:")
_AFTER_BLANK_LINE = re.compile(r"(?:\A\s*|\n[ \t\r]*\n[ \t]*)(Human|Assistant)[ \t]*:")
_ON_ITS_LINE = re.compile(r"(?:\A\s*|\n[ \t]*)(Human|Assistant)[ \t]*:")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def is_dialogue(value: Any) -> bool:
    """Whether a value is a text that starts with a turn of a dialogue."""
    return isinstance(value, str) and _FIRST.match(value) is not None


def is_whole_dialogue(value: Any) -> bool:
    """Whether a value is a dialogue that starts with a human turn and has a turn of the assistant."""
    if not is_dialogue(value):
        return False
    speakers = _marker(value).findall(value)
    return speakers[0] == "Human" and "Assistant" in speakers


def is_asking(value: Any) -> bool:
    """Whether a value is a dialogue that ends where an answer is due: with `Assistant:` or a human turn."""
    if not is_dialogue(value):
        return False
    *_, speaker, content = _marker(value).split(value)
    return speaker == "Human" or not content.strip()


def holds_turns(text: str) -> bool:
    """Whether the text of one message starts with a turn of a dialogue, or contains one after a blank line."""
    return ("Human" in text or "Assistant" in text) and _AFTER_BLANK_LINE.search(text) is not None


def parse_dialogue(value: Any, column: str) -> list[Message]:
    """The turns of a dialogue, each stripped. Raises `BadRow`: `bad_dialogue`, and `no_text` for an empty turn."""
    turns = _turns(text_of(value, column), column)
    for number, turn in enumerate(turns, 1):
        if not turn["content"]:
            raise BadRow("no_text", f"turn {number} of `{column}` (`{turn['role']}`) is empty")
    return turns


def parse_prompt(value: Any, column: str) -> list[Message]:
    """The turns of a dialogue that ends with a human turn, or with an empty `Assistant:` after it.

    A text that is not a dialogue becomes a user message. Raises `BadRow`.
    """
    if not is_dialogue(value):
        return [user_text(value, column)]
    text = text_of(value, column)
    if not is_asking(text):
        raise BadRow("bad_dialogue", f"`{column}` ends with an Assistant turn, not with a Human turn")
    *_, last = _marker(text).finditer(text)
    return parse_dialogue(text[: last.start()] if last[1] == "Assistant" else text, column)


def parse_answer(prompt: str, value: Any, column: str) -> list[Message]:
    """The turns of an answer to a dialogue: its text, and any turns that follow it. Raises `BadRow`."""
    answer = text_of(value, column)
    first = _FIRST.match(answer)
    answer = answer[first.end() :] if first and first[1] == "Assistant" else answer
    *_, last = _marker(prompt).finditer(prompt)
    asked = prompt[: last.end()] if last[1] == "Assistant" else f"{prompt.rstrip()}\n\nAssistant:"
    num_asked = len(_turns(asked, "prompt")) - 1
    turns = _turns(f"{asked} {answer}", column)[num_asked:]
    if empty := next((turn["role"] for turn in turns if not turn["content"]), None):
        raise BadRow("no_text", f"`{column}` has an empty turn (`{empty}`)")
    return turns


def _turns(text: str, column: str) -> list[Message]:
    head, *parts = _marker(text).split(text)
    if head.strip() or not parts:
        raise BadRow("bad_dialogue", f"`{column}` does not start with a Human or Assistant turn")
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return [Message(role=_ROLES[speaker], content=content.strip()) for speaker, content in pairs]


def _marker(text: str) -> re.Pattern[str]:
    """The pattern that starts a turn in this dialogue."""
    has_blank_lines = sum(1 for _ in _AFTER_BLANK_LINE.finditer(text)) > 1
    return _AFTER_BLANK_LINE if has_blank_lines or not is_dialogue(text) else _ON_ITS_LINE
