"""The row that all data formats produce, and the checks that build them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from dpo_recipes.data.message import BadRow, Message
from dpo_recipes.data.nulls import is_nothing
from dpo_recipes.data.structured_text import PYTHON_ADVICE, check_is_text
from dpo_recipes.data.turns import check_answer_end, check_prompt, divide_conversations, split_dialogue
from dpo_recipes.objectives.base import RowShape
from dpo_recipes.recipe.column_map import decoded

MAX_TEXT_CHARS = 1_000_000
"""The maximum length of a text. Longer ones are faulty data: a tokenizer needs minutes, and no model reads them."""


@dataclass(frozen=True)
class SourceRow:
    """One row of a source, unchanged, and its location in `where`, such as `rows.jsonl:12`."""

    columns: Mapping[str, Any]
    where: str
    fault: BadRow | None = None
    """Why the row could not be read, for example because its line is not JSON. None if it was read."""
    has_filled_nulls: bool = False
    """Whether the row comes from Arrow, where all objects of a column have all keys, with null if a row lacks one."""


@dataclass(frozen=True)
class Row:
    """One prompt and its answers. An answer is a list of messages, usually a single one of the assistant.

    A pair has two answers, the chosen one before the rejected one. Other rows have one answer, and a labelled row says
    whether it is good; a prompt that the model answers in training has none.
    """

    prompt: list[Message]
    answers: tuple[list[Message], ...]
    where: str
    label: bool | None = None
    """Whether the one answer of a labelled row is good. None for other rows."""
    weight: float | None = None
    """The factor of the row's loss. None counts as 1."""
    margin: float | None = None
    """How much better the chosen answer of a pair is, for objectives that use it. None counts as 0."""
    subset: str | None = None
    """The subset of the data, such as a category, that the row belongs to."""
    tools: list[Any] | None = None
    """The JSON schemas of the functions that the template offers to the model."""
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Variables for the chat template, such as `enable_thinking` (the column `chat_template_kwargs`)."""
    columns: dict[str, Any] = field(default_factory=dict)
    """Values of further columns, which sources of rewards read."""
    rendered: bool = False
    """Whether a template has already rendered the texts. The prompt and each answer are then one message, whose content
    is tokenized unchanged, without a template and without an added end of turn."""

    @property
    def messages(self) -> Iterator[Message]:
        """All messages, those of the prompt first."""
        return chain(self.prompt, *self.answers)


def answer_names(num_answers: int) -> tuple[str, ...]:
    """The names of the answers of a row, in their order."""
    return ((), ("completion",), ("chosen", "rejected"))[num_answers]


@dataclass(frozen=True)
class DataFormat:
    """How one family of files says which answer is better.

    `matches` decides by the columns of one row whether the format can read it. `to_rows` converts a row of a source to
    one or more rows, or raises `BadRow`. `format: auto` tries the formats with `detect`; their `matches` are mutually
    exclusive.
    """

    name: str
    summary: str
    columns: tuple[str, ...]
    """Columns that a row must have. `columns:` in a recipe maps a file's names to these."""
    example: Mapping[str, Any]
    matches: Callable[[Mapping[str, Any]], bool]
    to_rows: Callable[[SourceRow], Sequence[Row]]
    optional_columns: tuple[str, ...] = ()
    kind: RowShape = "pair"
    detect: bool = True
    chat_template: str | None = None
    """The template in the format's name, as in `chatml.intel`. A recipe with another template gets a warning."""


RowIterator = Iterator[SourceRow]


def text_of(value: Any, column: str) -> str:
    """The text in a column, which must not be blank.

    Raises `BadRow`: `no_text`, `bad_text`, `huge_text`, or `list_as_text` for messages in the syntax of JSON or Python,
    which are never meant to be trained on.
    """
    text = content_of(value, column)
    check_is_text(text, column)
    return text


def content_of(value: Any, column: str) -> str:
    """The text of a message, which must not be blank. It may contain JSON of messages, since users paste such texts.

    Raises `BadRow` `no_text`, `bad_text` or `huge_text`.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BadRow("no_text", f"`{column}` is empty")
    if not isinstance(value, str):
        raise BadRow("no_text", f"`{column}` is {type(value).__name__}, not text")
    return clean_text(value, column)


def clean_text(value: str, column: str) -> str:
    """The text unchanged, if tokenizers accept it.

    Raises `BadRow` `huge_text`, or `bad_text` for NULs and lone surrogates.
    """
    if len(value) > MAX_TEXT_CHARS:
        raise BadRow("huge_text", f"`{column}` has {len(value):,} characters, more than {MAX_TEXT_CHARS:,}")
    if "\0" in value:
        raise BadRow("bad_text", f"`{column}` has a NUL character at position {value.index(chr(0))}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRow("bad_text", f"`{column}` has half a surrogate pair at position {error.start}") from error
    return value


def clean_tree(value: Any, column: str) -> Any:
    """A JSON value unchanged, if `clean_text` accepts all texts in it. Raises `BadRow`."""
    if isinstance(value, str):
        clean_text(value, column)
    elif not isinstance(value, Mapping | list | int | float | None):  # such as a date in a Parquet file
        raise BadRow("bad_message", f"`{column}` is {type(value).__name__}, a type that JSON lacks")
    parts = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for place, part in parts:
        clean_tree(part, f"{column}[{place!r}]")
    return value


def preference(
    prompt: list[Message], chosen: list[Message], rejected: list[Message], row: SourceRow, **extras: Any
) -> Row:
    """A checked preference: its roles are in order and its answers differ. Raises `BadRow`.

    `prompt` is empty if only the conversations contain it. `divide_conversations` then finds it.
    """
    if prompt and chosen[0]["role"] == rejected[0]["role"] == "assistant":
        check_prompt(prompt)  # before turns of the answers are added to it, so that the error concerns only the prompt
    check_answer_end(chosen, "chosen")
    check_answer_end(rejected, "rejected")
    prompt, chosen, rejected = divide_conversations(prompt, chosen, rejected)
    check_prompt(prompt)
    return Row(prompt, (chosen, rejected), row.where, **{**template_extras(row), **extras})


def labelled(
    prompt: list[Message],
    completion: list[Message],
    label: Any,
    row: SourceRow,
    *,
    label_column: str = "label",
    **extras: Any,
) -> Row:
    """A checked answer with its label, which is true or 1, or false, 0 or -1. Raises `BadRow`."""
    made = answered(prompt, completion, row, **extras)
    if isinstance(label, str):  # from a CSV file
        label = {"true": 1, "1": 1, "false": 0, "0": 0, "-1": -1}.get(label.strip().lower(), label)
    if not isinstance(label, bool | int | float) or label not in (1, 0, -1):
        raise BadRow("bad_label", f"`{label_column}` is {label!r:.60}, neither true nor false")
    return replace(made, label=label == 1)


def answered(prompt: list[Message], answer: list[Message], row: SourceRow, **extras: Any) -> Row:
    """A checked prompt with one answer, which may repeat the prompt in front. Raises `BadRow`."""
    if answer[: len(prompt)] == prompt:
        answer = answer[len(prompt) :]
    check_prompt(prompt)
    if not answer or answer[0]["role"] != "assistant":
        raise BadRow("bad_role_order", "`completion` does not start with a message of `assistant`")
    check_answer_end(answer, "completion")
    return Row(prompt, (answer,), row.where, **{**template_extras(row), **extras})


def dialogue(messages: list[Message], column: str, row: SourceRow, **extras: Any) -> Row:
    """A checked dialogue, whose answer are all turns from the assistant's first reply on. Raises `BadRow`."""
    prompt, answer = split_dialogue(messages, column)
    return Row(prompt, (answer,), row.where, **{**template_extras(row), **extras})


def template_extras(row: SourceRow) -> dict[str, Any]:
    """`tools` and `template_kwargs` of a row, from its columns `tools` and `chat_template_kwargs`. Raises `BadRow`."""
    kwargs = decoded(row.columns.get("chat_template_kwargs"))
    kwargs = {} if is_nothing(kwargs) else kwargs
    if not isinstance(kwargs, Mapping):
        raise BadRow("bad_tools", f"`chat_template_kwargs` is {type(kwargs).__name__}, not an object")
    kwargs = clean_tree(dict(kwargs), "chat_template_kwargs")
    if taken := [name for name in ("messages", "tools", "add_generation_prompt") if name in kwargs]:
        raise BadRow("bad_tools", f"`chat_template_kwargs.{taken[0]}` would replace a variable that every row sets")
    return {"tools": tools_of(row.columns.get("tools"), "tools"), "template_kwargs": kwargs}


def tools_of(value: Any, column: str) -> list[Any] | None:
    """The JSON schemas in a list or its JSON text. None if it is empty or the text `null`.

    Raises `BadRow` `bad_tools`.
    """
    tools = decoded(value)
    if is_nothing(tools):
        return None
    if isinstance(tools, str) and tools.lstrip().startswith(("[{'", "{'")):
        raise BadRow("bad_tools", f"`{column}` holds a list in Python syntax; {PYTHON_ADVICE}")
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise BadRow("bad_tools", f"`{column}` is not a list of JSON schemas")
    return clean_tree(tools, column)
