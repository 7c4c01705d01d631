"""Columns prompt, chosen, rejected: texts, or lists of messages (TRL's standard and conversational forms)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpo_recipes.data.rows import (
    BadRow,
    DataFormat,
    Message,
    PreferenceRow,
    SourceRow,
    message_list,
    split_shared_prompt,
    text_of,
)


def matches(columns: Mapping[str, Any]) -> bool:
    """A prompt beside two answers; or no prompt, and two whole conversations."""
    if not {"chosen", "rejected"} <= set(columns):
        return False
    return columns.get("prompt") is not None or isinstance(columns["chosen"], list)


def to_row(row: SourceRow) -> PreferenceRow:
    """A preference from one row. Raises `BadRow`."""
    columns = row.columns
    if columns.get("prompt") is None:
        prompt, chosen, rejected = split_shared_prompt(
            message_list(columns.get("chosen"), "chosen"), message_list(columns.get("rejected"), "rejected")
        )
    else:
        prompt = _messages(columns["prompt"], "prompt", "user")
        chosen = _messages(columns.get("chosen"), "chosen", "assistant")
        rejected = _messages(columns.get("rejected"), "rejected", "assistant")
        # Datasets such as UltraFeedback repeat the prompt in front of each answer.
        if chosen[: len(prompt)] == prompt and rejected[: len(prompt)] == prompt:
            chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    if chosen == rejected:
        raise BadRow("equal_answers", "chosen and rejected are equal")
    _check_roles(prompt, chosen, rejected)
    return PreferenceRow(prompt, chosen, rejected, row.where)


def _messages(value: Any, column: str, role: str) -> list[Message]:
    if isinstance(value, list):
        return message_list(value, column)
    return [{"role": role, "content": text_of(value, column)}]


def _check_roles(prompt: list[Message], chosen: list[Message], rejected: list[Message]) -> None:
    if prompt[-1]["role"] not in ("user", "tool"):
        raise BadRow("bad_message", f"the prompt ends with a message of `{prompt[-1]['role']}`, not of `user`")
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if not answer or answer[0]["role"] != "assistant":
            raise BadRow("bad_message", f"`{name}` does not begin with a message of `assistant`")


FORMAT = DataFormat(
    name="preference",
    summary="columns prompt, chosen, rejected, as texts or lists of messages",
    columns=("prompt", "chosen", "rejected"),
    example={"prompt": "What is the capital of Peru?", "chosen": "Lima.", "rejected": "Many cities could be named."},
    matches=matches,
    to_row=to_row,
)
