"""Axolotl's dataset types for DPO, under their own names.

A name determines which columns are read. The template in it (`chatml.`, `llama3.`, `zephyr.`) is the expected
`chat_template` of the recipe. `format: auto` chooses none of them, because they overlap.

Source: https://github.com/axolotl-ai-cloud/axolotl/tree/main/src/axolotl/prompt_strategies/dpo
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from dpo_recipes.data.formats.implicit import split_texts
from dpo_recipes.data.formats.messages import (
    TEMPLATE_COLUMNS,
    TOOL_COLUMNS,
    assistant_text,
    decoded_together,
    has,
    message_list,
    messages_of,
    user_text,
    with_system,
)
from dpo_recipes.data.formats.ranked import EXAMPLE, from_best_two
from dpo_recipes.data.formats.ranked import matches as matches_ranked
from dpo_recipes.data.rows import (
    DataFormat,
    Row,
    SourceRow,
    preference,
)

_PROMPTS, _CHOSEN, _REJECTED = (
    ("prompt", "input", "question", "instruction"),
    ("chosen", "chosen_response"),
    ("rejected", "rejected_response"),
)
_ASKED = {"role": "user", "content": "Name a tree."}
_GOOD = {"role": "assistant", "content": "The oak."}
_BAD = {"role": "assistant", "content": "A tree is tall."}


def from_texts(row: SourceRow, prompt: Sequence[str], chosen: Sequence[str], rejected: Sequence[str]) -> list[Row]:
    """A preference from texts, each read from the first of its columns that the row has. Raises `BadRow`."""
    columns = row.columns
    asked = with_system([user_text(*first_of(columns, prompt))], columns)
    better, worse = ([assistant_text(*first_of(columns, names))] for names in (chosen, rejected))
    return [preference(asked, better, worse, row)]


def from_conversations(row: SourceRow) -> list[Row]:
    """A preference from two whole conversations that start with the same turns. Raises `BadRow`.

    All turns are kept, whereas Axolotl's `chatml.argilla_chat` reads only the first question and answer.
    """
    chosen, rejected = (message_list(row.columns.get(name), name) for name in ("chosen", "rejected"))
    return [preference([], chosen, rejected, row)]


def from_ultra(row: SourceRow) -> list[Row]:
    """A preference from the text of a prompt and two conversations that contain it. Raises `BadRow`."""
    asked = user_text(row.columns.get("prompt"), "prompt")
    chosen, rejected = (message_list(row.columns.get(name), name) for name in ("chosen", "rejected"))
    made = preference([asked], chosen, rejected, row)
    return [replace(made, prompt=with_system(made.prompt, row.columns))]


def from_chat_template(row: SourceRow) -> list[Row]:
    """A preference from `messages` and two answers. Raises `BadRow`.

    An answer that is a list keeps all its turns, whereas Axolotl reads only the last one.
    """
    columns = decoded_together(row.columns, ("messages", "chosen", "rejected"))
    prompt = messages_of(columns["messages"], "messages", "user")
    chosen, rejected = (messages_of(columns[name], name, "assistant") for name in ("chosen", "rejected"))
    return [preference(prompt, chosen, rejected, row)]


def from_passthrough(row: SourceRow) -> list[Row]:
    """A preference of texts that a template has already rendered, unchanged. Raises `BadRow`.

    If there is no prompt, the common beginning of both texts is the prompt.
    """
    columns = row.columns
    asked, chosen, rejected = (columns.get(name) for name in ("prompt", "chosen", "rejected"))
    if asked is None:
        asked, chosen, rejected = split_texts(chosen, rejected)
    better, worse = assistant_text(chosen, "chosen"), assistant_text(rejected, "rejected")
    return [preference([user_text(asked, "prompt")], [better], [worse], row, rendered=True)]


def first_of(columns: Mapping[str, Any], names: Sequence[str]) -> tuple[Any, str]:
    """The value and name of the first column that a row has; None and the last name if it has none of them."""
    name = next((name for name in names if columns.get(name) is not None), names[-1])
    return columns.get(name), name


def text_format(name: str, prompt: str, template: str) -> DataFormat:
    """A format of three text columns and an optional `system`."""
    return DataFormat(
        name=f"{template}.{name}",
        summary=f"texts in `{prompt}`, `chosen`, `rejected`, and `system` if there is one",
        columns=(prompt, "chosen", "rejected"),
        optional_columns=TEMPLATE_COLUMNS,
        example={"system": "Be brief.", prompt: "Name a tree.", "chosen": "The oak.", "rejected": "A tree is tall."},
        matches=lambda columns: has(columns, prompt, "chosen", "rejected"),
        to_rows=partial(from_texts, prompt=(prompt,), chosen=("chosen",), rejected=("rejected",)),
        detect=False,
        chat_template=template,
    )


def default_format(name: str, template: str) -> DataFormat:
    """A format that reads the first prompt column that a row has."""
    return DataFormat(
        name=f"{template}.{name}",
        summary="texts: the prompt in the first of `prompt`, `input`, `question`, `instruction`; the answers in "
        "`chosen` or `chosen_response`, and `rejected` or `rejected_response`",
        columns=(),
        optional_columns=(*_PROMPTS, *_CHOSEN, *_REJECTED, *TEMPLATE_COLUMNS),
        example={
            "system": "Be brief.",
            "instruction": "Name a tree.",
            "chosen_response": "The oak.",
            "rejected_response": "A tree is tall.",
        },
        matches=lambda columns: all(
            any(has(columns, name) for name in names) for names in (_PROMPTS, _CHOSEN, _REJECTED)
        ),
        to_rows=partial(from_texts, prompt=_PROMPTS, chosen=_CHOSEN, rejected=_REJECTED),
        detect=False,
        chat_template=template,
    )


def conversation_format(name: str, template: str | None) -> DataFormat:
    """A format of two whole conversations."""
    return DataFormat(
        name=name,
        summary="`chosen` and `rejected` are whole conversations that start with the same turns",
        columns=("chosen", "rejected"),
        optional_columns=TOOL_COLUMNS,
        example={"chosen": [_ASKED, _GOOD], "rejected": [_ASKED, _BAD]},
        matches=lambda columns: has(columns, "chosen", "rejected"),
        to_rows=from_conversations,
        detect=False,
        chat_template=template,
    )


def ultra_format(template: str) -> DataFormat:
    """A format with the text of a prompt and two conversations that repeat it."""
    return DataFormat(
        name=f"{template}.ultra",
        summary="a text `prompt`, and `chosen` and `rejected` as conversations that contain it",
        columns=("prompt", "chosen", "rejected"),
        optional_columns=TEMPLATE_COLUMNS,
        example={"prompt": "Name a tree.", "chosen": [_ASKED, _GOOD], "rejected": [_ASKED, _BAD]},
        matches=lambda columns: has(columns, "prompt", "chosen", "rejected"),
        to_rows=from_ultra,
        detect=False,
        chat_template=template,
    )


CHATML_DEFAULT, LLAMA3_DEFAULT = default_format("default", "chatml"), default_format("default", "llama3")
CHATML_ARGILLA, LLAMA3_ARGILLA = default_format("argilla", "chatml"), default_format("argilla", "llama3")
CHATML_ARGILLA_CHAT = conversation_format("chatml.argilla_chat", "chatml")
LLAMA3_ARGILLA_CHAT = conversation_format("llama3.argilla_chat", "llama3")
CHATML_ICR, LLAMA3_ICR = text_format("icr", "input", "chatml"), text_format("icr", "input", "llama3")
CHATML_INTEL, LLAMA3_INTEL = text_format("intel", "question", "chatml"), text_format("intel", "question", "llama3")
CHATML_PROMPT_PAIRS = text_format("prompt_pairs", "prompt", "chatml")
LLAMA3_PROMPT_PAIRS = text_format("prompt_pairs", "prompt", "llama3")
CHATML_ULTRA, LLAMA3_ULTRA = ultra_format("chatml"), ultra_format("llama3")
CHAT_TEMPLATE_ARGILLA_CHAT = conversation_format("chat_template.argilla_chat", None)

CHAT_TEMPLATE_DEFAULT = DataFormat(
    name="chat_template.default",
    summary="`messages` as a list or one text; `chosen` and `rejected` as a text, a message, or a list of messages",
    columns=("messages", "chosen", "rejected"),
    optional_columns=TOOL_COLUMNS,
    example={"messages": [{"role": "system", "content": "Be brief."}, _ASKED], "chosen": _GOOD, "rejected": _BAD},
    matches=lambda columns: has(columns, "messages", "chosen", "rejected"),
    to_rows=from_chat_template,
    detect=False,
)

# Axolotl (commit 1377ccc) sorts by rank and reads the last two answers. In Nectar, where rank 1 is the best, these are
# the worst ones.
ZEPHYR_NECTAR = DataFormat(
    name="zephyr.nectar",
    summary="a list of `answers` with their `rank`, 1 being the best; the pair is the best answer and the next one",
    columns=("prompt", "answers"),
    optional_columns=TEMPLATE_COLUMNS,
    example=EXAMPLE,
    matches=matches_ranked,
    to_rows=from_best_two,
    detect=False,
    chat_template="zephyr",
)

PASSTHROUGH = DataFormat(
    name="passthrough",
    summary="texts that a template has already rendered; they are tokenized unchanged. Without `prompt`, the common "
    "beginning of both answers is the prompt",
    columns=("chosen", "rejected"),
    optional_columns=("prompt",),
    example={
        "prompt": "<|im_start|>user\nName a tree.<|im_end|>\n<|im_start|>assistant\n",
        "chosen": "The oak.<|im_end|>",
        "rejected": "A tree is tall.<|im_end|>",
    },
    matches=lambda columns: has(columns, "chosen", "rejected"),
    to_rows=from_passthrough,
    detect=False,
)
