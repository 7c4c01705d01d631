"""Defines a message of a conversation, and the exception for a row that cannot be used."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

ROLES = ("system", "developer", "user", "assistant", "tool")
"""The roles of messages; formats translate other names (`human`, `gpt`, `observation`) to these."""
SYSTEM_ROLES = ("system", "developer")
REASONING_NAMES = ("reasoning_content", "thinking", "reasoning")
"""The keys under which data and templates have the reasoning of a message."""


class Message(TypedDict):
    """One turn of a conversation, as chat templates read it. `content` is empty only if there are `tool_calls`."""

    role: str
    content: str
    name: NotRequired[str]
    tool_calls: NotRequired[list[dict[str, Any]]]
    tool_call_id: NotRequired[str]
    reasoning_content: NotRequired[str]


class BadRow(Exception):
    """Raised for a row that cannot be used. `reason` is a short constant, by which such rows are
    counted."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(detail)
