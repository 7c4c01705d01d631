"""Reads columns that hold one or several answers, and pairs the answers of two columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dpo_recipes.data.formats.messages import assistant_text, is_messages, message_list, message_of
from dpo_recipes.data.rows import BadRow, Message


def answers_of(value: Any, column: str) -> list[list[Message]]:
    """The answers in a column: one from a text, a message or a list of messages; one for each text of a list of texts.

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
    """Pairs of answers: by position if both lists have the same length; a single answer with each of the others.

    Raises `BadRow` `uneven_answers` for other lengths, because any choice would silently drop or repeat answers.
    """
    if len(chosen) == 1:
        return [(chosen[0], answer) for answer in rejected]
    if len(rejected) == 1:
        return [(answer, rejected[0]) for answer in chosen]
    if len(chosen) != len(rejected):
        raise BadRow(
            "uneven_answers",
            f"`chosen` has {len(chosen)} answers and `rejected` has {len(rejected)}; they are paired by position, or a "
            "single answer with each of the others (`columns: {chosen: chosen.0}` uses only the first)",
        )
    return list(zip(chosen, rejected, strict=True))
