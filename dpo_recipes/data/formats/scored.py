"""Preferences with numbers: the scores of both answers, or how much better one answer is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpo_recipes.data.formats.messages import TEMPLATE_COLUMNS, assistant_text, has, message_list, number_of
from dpo_recipes.data.formats.trl import from_preference, holds_preference
from dpo_recipes.data.rows import BadRow, DataFormat, Message, Row, SourceRow, preference, text_of

_TURN = "\n<extra_id_1>"
_ROLES = {"Assistant": "assistant", "User": "user"}


def matches_ultrafeedback(columns: Mapping[str, Any]) -> bool:
    """Whether a row has the columns of `preference`, and a score for each answer."""
    return holds_preference(columns) and has(columns, "score_chosen", "score_rejected")


def from_ultrafeedback(row: SourceRow) -> list[Row]:
    """A preference whose scores agree with it.

    Raises `BadRow`: `tied_scores` if the scores are equal, `swapped_scores` if that of `rejected` is higher, and
    whatever `from_preference` raises.
    """
    chosen = number_of(row.columns.get("score_chosen"), "score_chosen")
    rejected = number_of(row.columns.get("score_rejected"), "score_rejected")
    if chosen == rejected:
        raise BadRow("tied_scores", f"`score_chosen` and `score_rejected` are both {chosen:g}")
    if chosen < rejected:
        raise BadRow("swapped_scores", f"`score_chosen` is {chosen:g}, less than `score_rejected`, {rejected:g}")
    return from_preference(row)


def matches_helpsteer3(columns: Mapping[str, Any]) -> bool:
    """Whether a row has a context, two responses and the strength of the preference."""
    return has(columns, "context", "response1", "response2", "overall_preference")


def from_helpsteer3(row: SourceRow) -> list[Row]:
    """A preference by the sign of `overall_preference`. Raises `BadRow`, with `tie` if it is 0."""
    context = message_list(row.columns.get("context"), "context")
    return [_by_sign(row, context, ("response1", "response2"), "overall_preference")]


def matches_helpsteer2(columns: Mapping[str, Any]) -> bool:
    """Whether a row has a prompt, two responses and the strength of the preference."""
    return has(columns, "prompt", "response_1", "response_2", "preference_strength")


def from_helpsteer2(row: SourceRow) -> list[Row]:
    """A preference by the sign of `preference_strength`. Raises `BadRow`, with `tie` if it is 0."""
    prompt = _turns(text_of(row.columns.get("prompt"), "prompt"))
    return [_by_sign(row, prompt, ("response_1", "response_2"), "preference_strength")]


def _by_sign(row: SourceRow, prompt: list[Message], responses: tuple[str, str], column: str) -> Row:
    strength = number_of(row.columns.get(column), column)
    if not -3 <= strength <= 3:
        raise BadRow("bad_number", f"`{column}` is {strength:g}, not between -3 and 3")
    if strength == 0:
        raise BadRow("tie", f"`{column}` is 0: neither response is better")
    better, worse = responses if strength < 0 else reversed(responses)
    chosen, rejected = (assistant_text(row.columns.get(name), name) for name in (better, worse))
    return preference(prompt, [chosen], [rejected], row)


def _turns(text: str) -> list[Message]:
    """The messages of a prompt: a user's text, then turns after `<extra_id_1>Assistant` and `<extra_id_1>User`."""
    first, *turns = text.split(_TURN)
    messages = [Message(role="user", content=text_of(first, "prompt"))]
    for turn in turns:
        speaker, _, content = turn.partition("\n")
        if speaker not in _ROLES:
            raise BadRow("bad_role", f"`prompt` has a turn of `{speaker:.60}`, neither `User` nor `Assistant`")
        messages.append(Message(role=_ROLES[speaker], content=text_of(content, "prompt")))
    return messages


ULTRAFEEDBACK = DataFormat(
    name="ultrafeedback",
    summary="the columns of `preference`, with `score_chosen` and `score_rejected`; rows whose scores are equal or in "
    "the wrong order are bad rows",
    columns=("chosen", "rejected", "score_chosen", "score_rejected"),
    optional_columns=("prompt", *TEMPLATE_COLUMNS),
    example={
        "prompt": "Name a tree.",
        "chosen": [{"role": "user", "content": "Name a tree."}, {"role": "assistant", "content": "The oak."}],
        "rejected": [{"role": "user", "content": "Name a tree."}, {"role": "assistant", "content": "A tree is tall."}],
        "score_chosen": 8.5,
        "score_rejected": 4.0,
    },
    matches=matches_ultrafeedback,
    to_rows=from_ultrafeedback,
)
"""Source: https://huggingface.co/datasets/HuggingFaceH4/ultrafeedback_binarized"""

HELPSTEER2 = DataFormat(
    name="helpsteer2",
    summary="`response_1` and `response_2` to the text `prompt`; a negative `preference_strength` means that the first "
    "is better, 0 is a tie",
    columns=("prompt", "response_1", "response_2", "preference_strength"),
    example={
        "prompt": "c#\n<extra_id_1>Assistant\nA programming language.\n<extra_id_1>User\nBy whom?",
        "response_1": "By Microsoft.",
        "response_2": "It is a note between C and D.",
        "preference_strength": -2,
    },
    matches=matches_helpsteer2,
    to_rows=from_helpsteer2,
)
"""Source: https://huggingface.co/datasets/nvidia/HelpSteer2, folder `preference`"""

HELPSTEER3 = DataFormat(
    name="helpsteer3",
    summary="`response1` and `response2` to the conversation `context`; a negative `overall_preference` means that the "
    "first is better, 0 is a tie",
    columns=("context", "response1", "response2", "overall_preference"),
    example={
        "context": [{"role": "user", "content": "Sort [3, 1, 2] in Python."}],
        "response1": "Use a loop.",
        "response2": "sorted([3, 1, 2])",
        "overall_preference": 3,
    },
    matches=matches_helpsteer3,
    to_rows=from_helpsteer3,
)
"""Source: https://huggingface.co/datasets/nvidia/HelpSteer3, configuration `preference`"""
