"""Reads messages from lists, single messages and texts, also from their JSON text in a CSV file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from dpo_recipes.data.formats.roles import CALL_ROLES, plain_name, role_key, role_of, text_key
from dpo_recipes.data.message import REASONING_NAMES, ROLES, BadRow, Message
from dpo_recipes.data.nulls import is_nothing
from dpo_recipes.data.rows import clean_text, clean_tree, content_of, decoded, text_of
from dpo_recipes.data.structured_text import check_is_text

TOOL_COLUMNS = ("tools", "chat_template_kwargs")
"""Optional columns that are passed to the chat template unchanged."""
TEMPLATE_COLUMNS = ("system", *TOOL_COLUMNS)
"""The same, and the text or message that is put in front of the prompt."""
_TEXT_EXTRAS = ("name", "tool_call_id")
_REASONING_KEYS = ("text", "value", *REASONING_NAMES)


def message_list(value: Any, column: str) -> list[Message]:
    """The messages of a list or of its JSON text: at least one, each with a known role and text. Raises `BadRow`."""
    messages = decoded(value)
    if not isinstance(messages, list) or not messages:
        if isinstance(messages, str):
            check_is_text(messages, column)
        raise BadRow("no_text", f"`{column}` is not a list of messages")
    return [message_of(message, f"{column}[{index}]") for index, message in enumerate(messages)]


def split_answer(messages: list[Message], column: str) -> tuple[list[Message], Message]:
    """The messages before the last one, and the last one, which is an answer. Raises `BadRow` if it is the only one."""
    *prompt, answer = messages
    if not prompt:
        raise BadRow("bad_role_order", f"`{column}` has only one message; an answer needs a prompt before it")
    return prompt, answer


def messages_of(value: Any, column: str, role: str) -> list[Message]:
    """Messages from a text, which becomes one message of `role`, from one message, or from a list of messages.

    A list with a single text is read like that text. Raises `BadRow`.
    """
    if isinstance(value, Mapping):
        return [message_of(value, column)]
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return [Message(role=role, content=text_of(value[0], f"{column}[0]"))]
    if isinstance(value, list):
        return message_list(value, column)
    return [Message(role=role, content=text_of(value, column))]


def message_of(value: Any, at: str) -> Message:
    """One message with a known role and text, or with tool calls; `at` is its place in the row. Raises `BadRow`.

    Its keys are `role` and `content`, or ShareGPT's `from` and `value`. `role_of` defines the names of roles. The text
    of a `function_call` or `tool_call` is the JSON of a call.
    """
    key = role_key(value)
    if key is None:
        talk = next(
            (name for name in ("messages", "conversations") if isinstance(value, Mapping) and name in value), None
        )
        keys = f"; its keys are {', '.join(map(str, value))}" if isinstance(value, Mapping) else ""
        advice = f"; map `{at}.{talk}` in the recipe's `columns:`" if talk else keys
        raise BadRow("bad_message", f"`{at}` has no role (neither `role` nor `from` is a text){advice}")
    role = role_of(value[key])
    if role is None:
        known = f"{', '.join(ROLES)}, and aliases of these such as human, gpt and bot"
        raise BadRow("bad_role", f"`{at}.{key}` is `{value[key]:.60}`; known roles are {known}")
    text_at = f"{at}.{text_key(value)}"
    if "text" in value and is_blank(value.get("content")) and is_blank(value.get("value")):
        raise BadRow("bad_message", f"`{at}` has its text in `text`; rename this key to `content`")
    if plain_name(value[key]) in CALL_ROLES:
        return tool_call_of(value.get(text_key(value)), text_at)
    content, parts = _read_parts(value.get(text_key(value)), text_at)
    reasoning = _one_reasoning({**value, text_at: parts.pop("reasoning", None)}, (*REASONING_NAMES, text_at), at)
    value = {**value, **parts}
    calls = value.get("tool_calls")
    content = "" if calls and is_blank(content) else content_of(content, text_at)
    message = Message(role=role, content=content)
    if calls:
        message["tool_calls"] = _tool_calls(calls, f"{at}.tool_calls")
    for name in _TEXT_EXTRAS:
        if value.get(name):
            message[name] = content_of(value[name], f"{at}.{name}")
    if reasoning:
        message["reasoning_content"] = reasoning
    return message


def user_text(value: Any, column: str) -> Message:
    """A user's message from a text. Raises `BadRow`."""
    return Message(role="user", content=text_of(value, column))


def assistant_text(value: Any, column: str) -> Message:
    """An assistant's message from a text. Raises `BadRow`."""
    return Message(role="assistant", content=text_of(value, column))


def with_system(prompt: list[Message], columns: Mapping[str, Any]) -> list[Message]:
    """The prompt with the column `system` in front, unless that is empty or the prompt already has a system message.

    The column contains a text, a system message, or a list of one system message. Raises `BadRow`.
    """
    if prompt[0]["role"] in ("system", "developer"):
        return prompt
    value = columns.get("system")
    if is_nothing(value):
        return prompt
    system = messages_of(value, "system", "system")
    roles = [message["role"] for message in system]
    if roles not in (["system"], ["developer"]):
        raise BadRow("bad_role_order", f"`system` holds messages of {', '.join(roles)}, not one message of `system`")
    return [*system, *prompt]


def decoded_together(columns: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The values of some columns, decoded to lists if every value present is a list of messages or its JSON text.

    A single text that looks like JSON is not decoded, because it may be the question or answer itself.
    """
    values = {name: columns.get(name) for name in names}
    lists = {name: decoded(value) for name, value in values.items()}
    return lists if all(value is None or is_messages(value) for value in lists.values()) else values


def is_messages(value: Any) -> bool:
    """Whether a value is a list of messages or its JSON text, judged by the first entry."""
    messages = decoded(value)
    return isinstance(messages, list) and bool(messages) and role_key(messages[0]) is not None


def is_blank(value: Any) -> bool:
    """Whether a value is null or a text that has only whitespace."""
    return value is None or (isinstance(value, str) and not value.strip())


def has(columns: Mapping[str, Any], *names: str) -> bool:
    """Whether a row has all these columns, none of them null."""
    return all(columns.get(name) is not None for name in names)


def number_of(value: Any, column: str) -> float:
    """The finite number in a column, also from its text in a CSV file. Raises `BadRow` `bad_number`."""
    try:
        number = math.nan if isinstance(value, bool) or value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise BadRow("bad_number", f"`{column}` is {value!r:.60}, not a number")
    return number


def tool_call_of(text: Any, column: str) -> Message:
    """An assistant's message from the JSON of a call, `{"name": ..., "arguments": ...}`, or of a list of calls.

    Raises `BadRow` `bad_tool_call`.
    """
    return Message(role="assistant", content="", tool_calls=_tool_calls(_calls_in(text, column), column))


def _calls_in(text: Any, column: str) -> list[Any]:
    calls = decoded(text)
    calls = [calls] if isinstance(calls, Mapping) else calls
    if not isinstance(calls, list) or not calls:
        raise BadRow("bad_tool_call", f"`{column}` is not the JSON of a function call")
    return calls


def _read_parts(content: Any, column: str) -> tuple[Any, dict[str, Any]]:
    """The joined text of a content that is a list of parts, and the reasoning and tool calls of its other parts.

    Parts are `{"type": "text", "text": ...}`. LLaMA-Factory's version 1 has the text in `value`, and also parts of the
    types `reasoning` and `tool_call`. A part `thinking` is `{"type": "thinking", "thinking": ...}`. A content that is
    not a list is returned unchanged. Raises `BadRow`.
    """
    if not isinstance(content, list):
        return content, {}
    texts: dict[str, list[str]] = {}
    for part in content:
        kind = (part.get("type") or "text") if isinstance(part, Mapping) else None
        kind, keys = ("reasoning", _REASONING_KEYS) if kind in REASONING_NAMES else (kind, ("text", "value"))
        text = next((part[key] for key in keys if isinstance(part.get(key), str)), None) if kind else None
        if kind not in ("text", "reasoning", "tool_call") or text is None:
            named = f" (`{kind}`)" if isinstance(kind, str) and kind != "text" else ""
            raise BadRow("bad_message", f"`{column}` holds a part that is not text{named}")
        texts.setdefault(kind, []).append(text)
    extras: dict[str, Any] = {}
    if "reasoning" in texts:
        extras["reasoning"] = "\n".join(texts["reasoning"])
    if "tool_call" in texts:
        extras["tool_calls"] = [call for text in texts["tool_call"] for call in _calls_in(text, column)]
    return "".join(texts.get("text", ())), extras


def _one_reasoning(value: Mapping[str, Any], names: Iterable[str], at: str) -> str:
    """The reasoning of a message under any of its names; empty if it has none. A true or false is not reasoning.

    Raises `BadRow` `bad_message` if two names have different texts.
    """
    held = {name: value[name] for name in names if not is_blank(value.get(name)) and not isinstance(value[name], bool)}
    found = {name: text_of(text, f"{at}.{name}") for name, text in held.items()}
    if len({text.strip() for text in found.values()}) > 1:
        named = " and ".join(f"`{name}`" for name in found)
        raise BadRow("bad_message", f"`{at}` holds different reasoning under {named}")
    return next(iter(found.values()), "")


def _tool_calls(calls: Any, at: str) -> list[dict[str, Any]]:
    """Calls as `{"type": "function", "function": {"name": ..., "arguments": ...}}`, with their `id` if they have one.

    OpenAI writes `arguments` as JSON text, but templates expect an object, and some refuse a text. The JSON text of an
    object is therefore decoded. Any other text is what the model wrote, and is kept.
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
