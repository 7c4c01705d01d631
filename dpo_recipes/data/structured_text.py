"""Recognizes messages that are stored as text, such as JSON or Python syntax in a CSV cell.

A text is only treated as messages if there is no doubt, since an answer can itself be JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dpo_recipes.data.formats.roles import role_key, role_of
from dpo_recipes.data.message import BadRow
from dpo_recipes.recipe.column_map import decoded

_BEGINS = re.compile(r'\s*(?:[\[{]|"\s*[\[{]|array\(|\(\s*\{|OrderedDict\(|\w*Message\()')
_PYTHON = re.compile(r"\s*(?:array\(\s*)?(?:[\[(]\s*)?(?:array\(\s*\[\s*)?\{\s*'\w+'\s*:")
_PYTHON_OBJECT = re.compile(
    r"\s*\[?\s*(?:OrderedDict\((?:\[\(|\{)\s*'(?:role|content|from|value)'|\w*Message\((?:role|content)=)"
)
_TEXT_LIST = re.compile(r"""\s*(?:array\(\s*)?\[\s*(?:'.*'|".*")\s*\](?:\s*,\s*dtype=\w+)?\s*\)?\s*""", re.DOTALL)
_PYTHON_KEYS = re.compile(r"'(\w+)'\s*:")
_CUT_JSON = re.compile(r'\s*(?:\{\s*"(?:messages|conversations?)"\s*:\s*)?\[\s*\{\s*"(?:role|from)"\s*:\s*"(\w+)"')
_TALKS = ("messages", "conversations", "conversation")
_MESSAGE_KEYS = frozenset(
    ("content", "name", "tool_calls", "tool_call_id", "reasoning_content", "thinking", "reasoning")
)
PYTHON_ADVICE = (
    "write the file as JSON lines or Parquet, which preserve lists: pandas' "
    "`to_json('pairs.jsonl', orient='records', lines=True)` or `to_parquet`"
)


def check_is_text(text: str, column: str) -> None:
    """Raises `BadRow` `list_as_text` if a text represents messages; the error says how to read them."""
    if _BEGINS.match(text) is None:
        return
    if is_python(text):
        raise BadRow(
            "list_as_text", f"`{column}` contains a list or object in Python syntax, not text; {PYTHON_ADVICE}"
        )
    value = decoded(text)
    if isinstance(value, str):
        _check_undecoded(text, column)
        return
    if is_message(value) or _is_message_list(value):
        what = "a list of messages" if isinstance(value, list) else "a message"
        advice = "use a `format:` that reads messages, or write all rows in the same form"
    elif isinstance(value, Mapping) and (talk := _talk_in(value)):
        what = f"an object with {', '.join(f'`{name}`' for name in value)}"
        advice = f"name the part to read in `columns:` of the recipe, here `{column}.{talk}`"
    elif isinstance(value, Mapping) and isinstance(value.get("content"), str) and _MESSAGE_KEYS.issuperset(value):
        what = "an object with `content`"
        advice = f"name the part to read in `columns:` of the recipe, here `{column}.content`"
    else:
        return
    raise BadRow("list_as_text", f"`{column}` contains the JSON of {what}, not text; {advice}")


def _check_undecoded(text: str, column: str) -> None:
    """Raises `BadRow` for JSON of messages that is truncated, damaged, or encoded twice."""
    if text.lstrip().startswith('"'):
        try:
            inner = json.loads(text)
        except ValueError:
            return
        if isinstance(inner, str):
            check_is_text(inner, column)
        return
    start = _CUT_JSON.match(text)
    if start is not None and role_of(start[1]) is not None:
        raise BadRow(
            "list_as_text",
            f"`{column}` starts like the JSON of messages but is not valid JSON; it has {len(text):,} characters and "
            "may be truncated (a spreadsheet cell holds up to 32,767)",
        )


def is_python(value: Any) -> bool:
    """Whether a value is a text with messages in Python syntax (or numpy's, without commas)."""
    if not isinstance(value, str):
        return False
    if _PYTHON_OBJECT.match(value):
        return True
    if _PYTHON.match(value) is None:
        return False
    keys = _PYTHON_KEYS.findall(value)
    names = set(keys)
    return (
        {"role", "content"} <= names
        or {"from", "value"} <= names
        or {"role", "tool_calls"} <= names
        or (keys[0] in (*_TALKS, "content"))
    )


def is_text_list(text: str) -> bool:
    """Whether a text is a list of texts in the syntax of JSON, Python or numpy: `["The oak.", "The elm."]`."""
    return _TEXT_LIST.fullmatch(text) is not None


def is_message(value: Any) -> bool:
    """Whether a value is a message: an object with a known role, and with text or tool calls."""
    key = role_key(value)
    if key is None or role_of(value[key]) is None:
        return False
    return bool({"content", "value", "tool_calls"} & set(value))


def message_columns(samples: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """The columns whose texts are the JSON of messages in at least half of the sampled rows that have a text."""
    texts: dict[str, list[str]] = {}
    for columns in samples:
        for name, value in columns.items():
            if isinstance(value, str) and value.strip():
                texts.setdefault(name, []).append(value)
    return frozenset(
        name for name, found in texts.items() if sum(_messages_in(text) is not None for text in found) * 2 >= len(found)
    )


def read_messages(row: Any, names: Iterable[str]) -> Any:
    """The `SourceRow` with messages decoded in these columns if their text is the JSON of messages."""
    found = ((name, _messages_in(row.columns.get(name))) for name in names)
    held = {name: messages for name, messages in found if messages is not None}
    return replace(row, columns={**row.columns, **held}) if held else row


def _messages_in(text: Any) -> Any:
    """The message or list of messages whose JSON a text is, or None."""
    if not isinstance(text, str) or _BEGINS.match(text) is None:
        return None
    value = decoded(text)
    return value if is_message(value) or _is_message_list(value) else None


def _is_message_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and is_message(value[0])


def _talk_in(value: Mapping[str, Any]) -> str | None:
    return next((name for name in _TALKS if _is_message_list(value.get(name))), None)
