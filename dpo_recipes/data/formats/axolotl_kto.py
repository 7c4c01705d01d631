"""Axolotl's dataset types for KTO. Axolotl gives them the same names as the types for DPO; here `kto.` is put in front.

Source: https://github.com/axolotl-ai-cloud/axolotl/tree/main/src/axolotl/prompt_strategies/kto
"""

from __future__ import annotations

from functools import partial

from dpo_recipes.data.formats.messages import (
    TEMPLATE_COLUMNS,
    TOOL_COLUMNS,
    assistant_text,
    has,
    message_list,
    split_answer,
    user_text,
    with_system,
)
from dpo_recipes.data.rows import DataFormat, Row, SourceRow, labelled


def from_labelled_text(row: SourceRow, prompt: str) -> list[Row]:
    """One labelled answer from the prompt's column and `completion`. Raises `BadRow`."""
    asked = with_system([user_text(row.columns.get(prompt), prompt)], row.columns)
    answer = assistant_text(row.columns.get("completion"), "completion")
    return [labelled(asked, [answer], row.columns.get("label"), row)]


def from_labelled_conversation(row: SourceRow) -> list[Row]:
    """The last message of the conversation in `completion`, labelled. Raises `BadRow`."""
    prompt, answer = split_answer(message_list(row.columns.get("completion"), "completion"), "completion")
    return [labelled(prompt, [answer], row.columns.get("label"), row)]


def labelled_texts(name: str, prompt: str, template: str) -> DataFormat:
    """A format of two text columns, a label, and an optional `system`."""
    return DataFormat(
        name=f"kto.{template}.{name}",
        summary=f"texts in `{prompt}` and `completion`, `label`, and `system` if there is one",
        columns=(prompt, "completion", "label"),
        optional_columns=TEMPLATE_COLUMNS,
        example={"system": "Be brief.", prompt: "Name a tree.", "completion": "The oak.", "label": True},
        matches=lambda columns: has(columns, prompt, "completion", "label"),
        to_rows=partial(from_labelled_text, prompt=prompt),
        kind="labelled",
        detect=False,
        chat_template=template,
    )


def labelled_conversation(template: str) -> DataFormat:
    """A format whose `completion` is a whole conversation."""
    return DataFormat(
        name=f"kto.{template}.argilla_chat",
        summary="`completion` is a whole conversation whose last answer has the `label`",
        columns=("completion", "label"),
        optional_columns=TOOL_COLUMNS,
        example={
            "completion": [
                {"role": "user", "content": "Name a tree."},
                {"role": "assistant", "content": "A tree is tall."},
            ],
            "label": False,
        },
        matches=lambda columns: has(columns, "completion", "label"),
        to_rows=from_labelled_conversation,
        kind="labelled",
        detect=False,
        chat_template=template,
    )


CHATML_ARGILLA = labelled_texts("argilla", "instruction", "chatml")
LLAMA3_ARGILLA = labelled_texts("argilla", "instruction", "llama3")
CHATML_ARGILLA_CHAT, LLAMA3_ARGILLA_CHAT = (
    labelled_conversation("chatml"),
    labelled_conversation("llama3"),
)
CHATML_INTEL, LLAMA3_INTEL = (
    labelled_texts("intel", "question", "chatml"),
    labelled_texts("intel", "question", "llama3"),
)
CHATML_PROMPT_PAIRS = labelled_texts("prompt_pairs", "prompt", "chatml")
LLAMA3_PROMPT_PAIRS = labelled_texts("prompt_pairs", "prompt", "llama3")
CHATML_ULTRA, LLAMA3_ULTRA = (
    labelled_texts("ultra", "prompt", "chatml"),
    labelled_texts("ultra", "prompt", "llama3"),
)
