"""The names that datasets use for the roles of a conversation, and the keys that hold role and text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpo_recipes.data.message import ROLES

_ALIASES = {
    "user": ("human", "prompter", "person", "customer", "用户"),
    "assistant": ("gpt", "bot", "chatbot", "model", "ai", "llm", "chatgpt", "agent", "助手"),
    "tool": ("observation", "tool_response", "tool_result", "function", "function_response", "ipython"),
    "system": ("system_prompt", "system_message", "系统"),
}
CALL_ROLES = ("function_call", "tool_call")
"""Roles of messages whose text is the JSON of one or several calls by the assistant."""
_ROLE_OF = {name: name for name in ROLES} | {alias: role for role, names in _ALIASES.items() for alias in names}
_ROLE_OF |= dict.fromkeys(CALL_ROLES, "assistant")


def plain_name(name: str) -> str:
    """The name of a role as the table of aliases writes it: in lower case, with `_` between words."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def role_of(name: str) -> str | None:
    """The role that a name stands for, ignoring case. None if the name is unknown."""
    return _ROLE_OF.get(name) or _ROLE_OF.get(plain_name(name))


def role_key(message: Any) -> str | None:
    """The key that holds the role of a message, `role` or ShareGPT's `from`. None if neither holds a text."""
    if not isinstance(message, Mapping):
        return None
    return next((key for key in ("role", "from") if isinstance(message.get(key), str)), None)


def text_key(message: Mapping[str, Any]) -> str:
    """The key that holds the text of a message: `content`, or ShareGPT's `value` if only that is not null."""
    return "value" if message.get("content") is None and message.get("value") is not None else "content"
