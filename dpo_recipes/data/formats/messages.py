"""Reading messages: lists of them, single ones, texts, and the same as JSON text in a CSV file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from dpo_recipes.data.message import ROLES, BadRow, Message
from dpo_recipes.data.rows import clean_text, clean_tree, decoded, text_of

_TEXT_EXTRAS = ("name", "tool_call_id", "reasoning_content")


def message_list(value: Any, column: str) -> list[Message]:
    """`value`, or the JSON text of one, as a non-empty list of messages with a known role and text. Raises `BadRow`."""
    messages = decoded(value)
    if not isinstance(messages, list) or not messages:
        raise BadRow("no_text", f"`{column}` is not a list of messages")
    return [message_of(message, f"{column}[{index}]") for index, message in enumerate(messages)]


def messages_of(value: Any, column: str, role: str) -> list[Message]:
    """Messages from a text, which is one message of `role`; from one message; or from a list of them."""
    if isinstance(value, Mapping):
        return [message_of(value, column)]
    if isinstance(value, list):
        return message_list(value, column)
    return [Message(role=role, content=text_of(value, column))]


def message_of(value: Any, at: str) -> Message:
    """One message with a known role and text, or with tool calls; `at` is its place in the row. Raises `BadRow`."""
    if not isinstance(value, Mapping) or not isinstance(value.get("role"), str):
        raise BadRow("bad_message", f"`{at}` has no role")
    role = value["role"]
    if role not in ROLES:
        raise BadRow("bad_role", f"`{at}.role` is `{role:.60}`; known are {', '.join(ROLES)}")
    calls = value.get("tool_calls")
    content = _joined_parts(value.get("content"), f"{at}.content")
    if calls:
        content = "" if is_blank(content) else text_of(content, f"{at}.content")
    else:
        content = text_of(content, f"{at}.content")
    message = Message(role=role, content=content)
    if calls:
        message["tool_calls"] = _tool_calls(calls, f"{at}.tool_calls")
    for name in _TEXT_EXTRAS:
        if value.get(name):
            message[name] = text_of(value[name], f"{at}.{name}")
    return message


def user_text(value: Any, column: str) -> Message:
    """A user's message from a text. Raises `BadRow`."""
    return Message(role="user", content=text_of(value, column))


def assistant_text(value: Any, column: str) -> Message:
    """An assistant's message from a text. Raises `BadRow`."""
    return Message(role="assistant", content=text_of(value, column))


def with_system(prompt: list[Message], columns: Mapping[str, Any]) -> list[Message]:
    """The prompt behind the text of the column `system`, unless that is empty or the prompt has its own."""
    value = columns.get("system")
    if is_blank(value) or prompt[0]["role"] in ("system", "developer"):
        return prompt
    return [Message(role="system", content=text_of(value, "system")), *prompt]


def decoded_together(columns: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The values of some columns; where every one that is there is a list of messages as JSON text, the lists.

    One text among others that looks like JSON is left alone: it may be what the model was asked or answered.
    """
    values = {name: columns.get(name) for name in names}
    lists = {name: decoded(value) for name, value in values.items()}
    return lists if all(value is None or is_messages(value) for value in lists.values()) else values


def is_messages(value: Any) -> bool:
    """Whether a value is, as far as its first entry shows, a list of messages or the JSON text of one."""
    messages = decoded(value)
    return isinstance(messages, list) and bool(messages) and isinstance(messages[0], Mapping) and "role" in messages[0]


def is_blank(value: Any) -> bool:
    """Whether a value is null or a text of nothing but spaces."""
    return value is None or (isinstance(value, str) and not value.strip())


def has(columns: Mapping[str, Any], *names: str) -> bool:
    """Whether a row has all these columns, none of them null."""
    return all(columns.get(name) is not None for name in names)


def number_of(value: Any, column: str) -> float:
    """A number, also from its text, as CSV files have it. Raises `BadRow` `bad_number`."""
    try:
        number = math.nan if isinstance(value, bool) or value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise BadRow("bad_number", f"`{column}` is {value!r:.60}, no number")
    return number


def tool_call_of(text: Any, column: str) -> Message:
    """An assistant's message from the JSON of a call, `{"name": ..., "arguments": ...}`, or of a list of them.

    Raises `BadRow` `bad_tool_call`.
    """
    calls = decoded(text)
    calls = [calls] if isinstance(calls, Mapping) else calls
    if not isinstance(calls, list) or not calls:
        raise BadRow("bad_tool_call", f"`{column}` is not the JSON of a function call")
    return Message(role="assistant", content="", tool_calls=_tool_calls(calls, column))


def _joined_parts(content: Any, column: str) -> Any:
    """Text of a content that is a list of parts, `[{"type": "text", "text": ...}]`; other values as they are."""
    if not isinstance(content, list):
        return content
    for part in content:
        if not (isinstance(part, Mapping) and part.get("type", "text") == "text" and isinstance(part.get("text"), str)):
            raise BadRow("bad_message", f"`{column}` holds a part that is not text")
    return "".join(part["text"] for part in content)


def _tool_calls(calls: Any, at: str) -> list[dict[str, Any]]:
    """Calls as `{"type": "function", "function": {"name": ..., "arguments": ...}}`, with their `id` if they have one.

    OpenAI writes `arguments` as JSON text, and templates want the object (some refuse a text): a text that holds an
    object becomes it; one that does not is what the model wrote, and stays.
    """
    if not isinstance(calls, list):
        raise BadRow("bad_tool_call", f"`{at}` is {type(calls).__name__}, not a list of calls")
    made = []
    for index, call in enumerate(calls):
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise BadRow("bad_tool_call", f"`{at}[{index}]` names no function")
        arguments = function.get("arguments")
        held = decoded(arguments)
        arguments = held if isinstance(held, Mapping) else arguments
        entry = {"type": "function", "function": {"name": function["name"], "arguments": {}}}
        if not is_blank(arguments):
            entry["function"]["arguments"] = arguments
        if call.get("id"):
            entry = {"id": clean_text(str(call["id"]), f"{at}[{index}].id"), **entry}
        made.append(clean_tree(entry, f"{at}[{index}]"))
    return made
