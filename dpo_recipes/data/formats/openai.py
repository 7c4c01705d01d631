"""OpenAI's file for preference fine-tuning.

Source: https://developers.openai.com/api/docs/guides/direct-preference-optimization
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpo_recipes.data.formats.messages import has, is_messages, message_list
from dpo_recipes.data.rows import BadRow, DataFormat, Row, SourceRow, decoded, preference, tools_of


def matches(columns: Mapping[str, Any]) -> bool:
    """Whether a row has an input with messages, and two outputs."""
    prompt = decoded(columns.get("input"))
    return (
        isinstance(prompt, Mapping)
        and is_messages(prompt.get("messages"))
        and has(columns, "preferred_output", "non_preferred_output")
    )


def from_openai(row: SourceRow) -> list[Row]:
    """A preference from one row. Raises `BadRow`. `parallel_tool_calls` is a setting of the API and is not read."""
    prompt = decoded(row.columns.get("input"))
    if not isinstance(prompt, Mapping):
        raise BadRow("bad_message", f"`input` is {type(prompt).__name__}, not an object with `messages`")
    return [
        preference(
            message_list(prompt.get("messages"), "input.messages"),
            message_list(row.columns.get("preferred_output"), "preferred_output"),
            message_list(row.columns.get("non_preferred_output"), "non_preferred_output"),
            row,
            tools=tools_of(prompt.get("tools"), "input.tools"),
        )
    ]


OPENAI = DataFormat(
    name="openai",
    summary="`input` with `messages` and `tools`, `preferred_output` and `non_preferred_output` as lists of messages",
    columns=("input", "preferred_output", "non_preferred_output"),
    optional_columns=("chat_template_kwargs",),
    example={
        "input": {
            "messages": [{"role": "user", "content": "How cold is it in San Francisco?"}],
            "tools": [],
            "parallel_tool_calls": True,
        },
        "preferred_output": [{"role": "assistant", "content": "It is 12 °C today."}],
        "non_preferred_output": [{"role": "assistant", "content": "It is not particularly cold."}],
    },
    matches=matches,
    to_rows=from_openai,
)
