"""The one shape that every data format becomes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict


class Message(TypedDict):
    """One turn of a conversation, as chat templates take it."""

    role: str
    content: str


@dataclass(frozen=True)
class SourceRow:
    """One row as it stands in a source, and where: `pairs.jsonl:12`."""

    columns: Mapping[str, Any]
    where: str


@dataclass(frozen=True)
class PreferenceRow:
    """One prompt and two answers to it. Answers are message lists; nearly always of one assistant message."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    where: str


class BadRow(Exception):
    """A row cannot become a preference. `reason` is a short constant that counts are kept under."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(detail)


@dataclass(frozen=True)
class DataFormat:
    """How one family of files says "this answer is better than that".

    `matches` looks at the column names and the first rows; `to_row` raises `BadRow`.
    """

    name: str
    summary: str
    columns: tuple[str, ...]
    example: Mapping[str, Any]
    matches: Callable[[Mapping[str, Any]], bool]
    to_row: Callable[[SourceRow], PreferenceRow]


@dataclass
class SplitReport:
    """What happened to the rows of one split. `tokens` and `lengths` are filled in by tokenizing."""

    rows_in: int = 0
    rows_kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    """Up to three places for each reason, so that a person can look."""
    tokens: int = 0
    """Tokens of prompt + chosen and prompt + rejected together, as the trainer sees them."""
    truncated: int = 0
    lengths: dict[str, dict[str, float]] = field(default_factory=dict)

    def drop(self, reason: str, where: str) -> None:
        """Count one row as dropped."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        places = self.examples.setdefault(reason, [])
        if len(places) < 3:
            places.append(where)


RowIterator = Iterator[SourceRow]


def text_of(value: Any, column: str) -> str:
    """`value` as text with something in it. Raises `BadRow` `no_text` when it is not."""
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BadRow("no_text", f"`{column}` is empty")
    if not isinstance(value, str):
        raise BadRow("no_text", f"`{column}` is {type(value).__name__}, not text")
    return value


def message_list(value: Any, column: str) -> list[Message]:
    """`value` as a non-empty list of messages with a role and text. Raises `BadRow`."""
    if not isinstance(value, list) or not value:
        raise BadRow("no_text", f"`{column}` is not a list of messages")
    messages: list[Message] = []
    for index, message in enumerate(value):
        at = f"{column}[{index}]"
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise BadRow("bad_message", f"`{at}` has no role")
        messages.append({"role": message["role"], "content": text_of(message.get("content"), f"{at}.content")})
    return messages


def split_shared_prompt(
    chosen: list[Message], rejected: list[Message]
) -> tuple[list[Message], list[Message], list[Message]]:
    """The messages two conversations begin with alike, and how each goes on.

    The shared part ends before the first assistant turn that differs. Raises `BadRow` `no_shared_prompt` when
    there is none, or when one of them does not go on with an assistant turn, and `equal_answers`.
    """
    if chosen == rejected:
        raise BadRow("equal_answers", "chosen and rejected are equal")
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    tails = chosen[shared:], rejected[shared:]
    if not shared or not all(tail and tail[0]["role"] == "assistant" for tail in tails):
        raise BadRow("no_shared_prompt", "chosen and rejected are not two answers to the same prompt")
    return chosen[:shared], *tails
