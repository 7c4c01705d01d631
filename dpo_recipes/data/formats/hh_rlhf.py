"""Anthropic's hh-rlhf, whose columns are two whole dialogues, and Dahoas' version of it, which has a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpo_recipes.data.formats.dialogue import (
    is_asking,
    is_dialogue,
    is_whole_dialogue,
    parse_answer,
    parse_dialogue,
    parse_prompt,
)
from dpo_recipes.data.rows import (
    BadRow,
    DataFormat,
    Row,
    SourceRow,
    preference,
    text_of,
)


def matches_hh_rlhf(columns: Mapping[str, Any]) -> bool:
    """Whether a row has two whole dialogues as texts. A prompt beside them can only repeat their beginning."""
    return is_whole_dialogue(columns.get("chosen")) and is_whole_dialogue(columns.get("rejected"))


def from_hh_rlhf(row: SourceRow) -> list[Row]:
    """A preference from two dialogues that start with the same turns. Raises `BadRow`."""
    chosen, rejected = (parse_dialogue(row.columns.get(name), name) for name in ("chosen", "rejected"))
    return [preference([], chosen, rejected, row)]


def matches_dahoas(columns: Mapping[str, Any]) -> bool:
    """Whether a row has a dialogue that ends where an answer is due, and two texts that continue it."""
    return is_asking(columns.get("prompt")) and all(
        isinstance(columns.get(name), str) and not is_whole_dialogue(columns[name]) for name in ("chosen", "rejected")
    )


def from_dahoas(row: SourceRow) -> list[Row]:
    """A preference from a dialogue and two stripped answers. Raises `BadRow`.

    Turns of `Human:` within an answer become turns of the user. The column `response` repeats `chosen` in the source
    and is not read.
    """
    text = text_of(row.columns.get("prompt"), "prompt")
    if not is_dialogue(text):
        raise BadRow("bad_dialogue", "`prompt` does not start with a Human or Assistant turn")
    prompt = parse_prompt(text, "prompt")
    chosen, rejected = (parse_answer(text, row.columns.get(name), name) for name in ("chosen", "rejected"))
    return [preference(prompt, chosen, rejected, row)]


HH_RLHF = DataFormat(
    name="hh_rlhf",
    summary="`chosen` and `rejected` are whole Human/Assistant dialogues that start with the same turns",
    columns=("chosen", "rejected"),
    example={
        "chosen": "\n\nHuman: What is the capital of Peru?\n\nAssistant: Lima.",
        "rejected": "\n\nHuman: What is the capital of Peru?\n\nAssistant: I would rather not say.",
    },
    matches=matches_hh_rlhf,
    to_rows=from_hh_rlhf,
)
"""Source: https://huggingface.co/datasets/Anthropic/hh-rlhf"""

DAHOAS = DataFormat(
    name="dahoas",
    summary="a Human/Assistant dialogue up to `Assistant:`, and two answers to it, as in Dahoas/rm-static",
    columns=("prompt", "chosen", "rejected"),
    optional_columns=("response",),
    example={
        "prompt": "\n\nHuman: Can I freeze rice?\n\nAssistant: Yes, you can.\n\nHuman: For how long?\n\nAssistant:",
        "response": " About a month, in a closed box.",
        "chosen": " About a month, in a closed box.",
        "rejected": " Rice is a grain.",
    },
    matches=matches_dahoas,
    to_rows=from_dahoas,
)
"""Source: https://huggingface.co/datasets/Dahoas/rm-static"""
