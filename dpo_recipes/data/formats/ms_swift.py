"""ms-swift's rows: a conversation whose last answer is the preferred one or has a label, and a query with answers.

Source: https://swift.readthedocs.io/en/latest/Customization/Custom-dataset.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpo_recipes.data.formats.answers import answers_of
from dpo_recipes.data.formats.llama_factory import history_of
from dpo_recipes.data.formats.messages import (
    TEMPLATE_COLUMNS,
    assistant_text,
    has,
    is_blank,
    is_messages,
    message_list,
    user_text,
    with_system,
)
from dpo_recipes.data.rows import (
    BadRow,
    DataFormat,
    Message,
    Row,
    SourceRow,
    labelled,
    preference,
)


def matches_ms_swift(columns: Mapping[str, Any]) -> bool:
    """Whether a row has a conversation and a rejected answer or conversation."""
    rejected = columns.get("rejected_response") or columns.get("rejected_messages")
    return rejected is not None and is_messages(columns.get("messages"))


def from_ms_swift(row: SourceRow) -> list[Row]:
    """A preference of the end of `messages` over `rejected_response`, or over the end of `rejected_messages`.

    `rejected_response` replaces everything after the last message of a user or tool. Each text of a list is a rejected
    answer and makes a row of its own. Raises `BadRow`.
    """
    messages = conversation(row, "messages")
    rejected = row.columns.get("rejected_response")
    if is_blank(rejected) and row.columns.get("rejected_messages") is not None:
        return [preference([], messages, conversation(row, "rejected_messages"), row)]
    prompt, chosen = _split_last_answer(messages)
    return [preference(prompt, chosen, answer, row) for answer in answers_of(rejected, "rejected_response")]


def matches_ms_swift_kto(columns: Mapping[str, Any]) -> bool:
    """Whether a row has a conversation and a label."""
    return is_messages(columns.get("messages")) and has(columns, "label") and not has(columns, "prompt", "completion")


def from_ms_swift_kto(row: SourceRow) -> list[Row]:
    """The last answer with its label. Raises `BadRow`."""
    prompt, answer = _split_last_answer(conversation(row, "messages"))
    return [labelled(prompt, answer, row.columns.get("label"), row)]


def conversation(row: SourceRow, column: str) -> list[Message]:
    """The messages of a column, with the column `system` in front. Raises `BadRow`."""
    return with_system(message_list(row.columns.get(column), column), row.columns)


def _split_last_answer(messages: list[Message]) -> tuple[list[Message], list[Message]]:
    asked = [index for index, message in enumerate(messages) if message["role"] in ("user", "tool")]
    cut = asked[-1] + 1 if asked else 0
    if not cut or cut == len(messages):
        raise BadRow("bad_role_order", "`messages` does not end with an answer of `assistant` to a user or tool")
    return messages[:cut], messages[cut:]


def matches_ms_swift_query(columns: Mapping[str, Any]) -> bool:
    """Whether a row has a query, its answer and a rejected answer."""
    return has(columns, "query", "response", "rejected_response") and not has(columns, "messages")


def from_ms_swift_query(row: SourceRow) -> list[Row]:
    """A preference from the `history` and `query`, and two answers. Raises `BadRow`."""
    columns = row.columns
    asked = [*history_of(columns.get("history")), user_text(columns.get("query"), "query")]
    chosen = assistant_text(columns.get("response"), "response")
    rejected = answers_of(columns.get("rejected_response"), "rejected_response")
    return [preference(with_system(asked, columns), [chosen], answer, row) for answer in rejected]


MS_SWIFT = DataFormat(
    name="ms_swift",
    summary="`messages` that end with the preferred answer, and `rejected_response` (a text, or a list of them) or "
    "`rejected_messages` (a whole conversation)",
    columns=("messages",),
    optional_columns=("rejected_response", "rejected_messages", *TEMPLATE_COLUMNS),
    example={
        "messages": [
            {"role": "system", "content": "You are a calculator."},
            {"role": "user", "content": "What is 1 + 1?"},
            {"role": "assistant", "content": "It equals 2."},
        ],
        "rejected_response": "I don't know.",
    },
    matches=matches_ms_swift,
    to_rows=from_ms_swift,
)

MS_SWIFT_QUERY = DataFormat(
    name="ms_swift_query",
    summary="`query` and `response`, `rejected_response` (a text, or a list of them), and `history`: earlier rounds",
    columns=("query", "response", "rejected_response"),
    optional_columns=("history", *TEMPLATE_COLUMNS),
    example={
        "system": "Be brief.",
        "history": [["I live in Lima.", "A fine city."]],
        "query": "What country is it in?",
        "response": "In Peru.",
        "rejected_response": "In South America.",
    },
    matches=matches_ms_swift_query,
    to_rows=from_ms_swift_query,
)

MS_SWIFT_KTO = DataFormat(
    name="ms_swift_kto",
    summary="`messages` that end with an answer, and `label`: whether it is good",
    columns=("messages", "label"),
    optional_columns=TEMPLATE_COLUMNS,
    example={
        "messages": [
            {"role": "user", "content": "Tell me tomorrow's weather."},
            {"role": "assistant", "content": "I don't know."},
        ],
        "label": False,
    },
    matches=matches_ms_swift_kto,
    to_rows=from_ms_swift_kto,
    kind="labelled",
)
