"""Columns that hold several answers: which of them makes a pair with which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dpo_recipes.data.formats.messages import assistant_text, is_messages, message_list, message_of
from dpo_recipes.data.rows import BadRow, Message


def answers_of(value: Any, column: str) -> list[list[Message]]:
    """Each answer in a column: a text, one message, a list of messages that is one answer, or a list of texts.

    Raises `BadRow`.
    """
    if isinstance(value, Mapping):
        return [[message_of(value, column)]]
    if not isinstance(value, list):
        return [[assistant_text(value, column)]]
    if not value:
        raise BadRow("no_text", f"`{column}` is an empty list")
    if is_messages(value) or not all(isinstance(text, str) for text in value):
        return [message_list(value, column)]
    return [[assistant_text(text, f"{column}[{index}]")] for index, text in enumerate(value)]


def paired(
    chosen: Sequence[list[Message]], rejected: Sequence[list[Message]]
) -> list[tuple[list[Message], list[Message]]]:
    """Lists of answers as pairs: by place where they are as long as each other, or one answer with each of the others.

    Raises `BadRow` `uneven_answers` for other lengths: any choice would drop or repeat some of them unasked.
    """
    if len(chosen) == 1:
        return [(chosen[0], answer) for answer in rejected]
    if len(rejected) == 1:
        return [(answer, rejected[0]) for answer in chosen]
    if len(chosen) != len(rejected):
        raise BadRow(
            "uneven_answers",
            f"`chosen` has {len(chosen)} answers and `rejected` {len(rejected)}; they are paired by place, or one of "
            "them with each of the others (`columns: {chosen: chosen.0}` takes the first)",
        )
    return list(zip(chosen, rejected, strict=True))
