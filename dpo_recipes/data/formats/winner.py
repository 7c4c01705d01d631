"""Rows with two answers, and a column that names the better one.

Sources: https://huggingface.co/datasets/lmsys/chatbot_arena_conversations (`conversation_a`, `winner: model_a`),
https://huggingface.co/datasets/PKU-Alignment/PKU-SafeRLHF (`response_0`, `better_response_id`)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dpo_recipes.data.formats.dialogue import is_dialogue, parse_answer, parse_prompt
from dpo_recipes.data.formats.messages import (
    TEMPLATE_COLUMNS,
    decoded_together,
    has,
    is_blank,
    message_list,
    messages_of,
    with_system,
)
from dpo_recipes.data.rows import (
    BadRow,
    DataFormat,
    Message,
    Row,
    SourceRow,
    preference,
)

SIDES = (("a", "b"), ("0", "1"), ("1", "2"))
"""The names of the two sides, as in `response_a` and `response_b`. The column `winner` uses the same names."""
_TIES = {
    *("tie", "tie (bothbad)", "tie (both bad)", "both_bad", "bothbad", "both bad"),
    *("both", "neither", "draw", "equal", "same", "none"),
}
_SIDE = re.compile(r"(?:[a-z]+[ _-])*(?:[a-z]*(?P<number>\d)(?:\.0+)?|(?P<letter>[a-z]))")


def matches_winner(columns: Mapping[str, Any]) -> bool:
    """Whether a row has a winner, and two answers to a prompt or two whole conversations."""
    if "winner" not in columns:
        return False
    return _names(columns, "conversation") is not None or (
        has(columns, "prompt") and _names(columns, "response") is not None
    )


def from_winner(row: SourceRow) -> list[Row]:
    """A preference of the answer that won. Raises `BadRow`, with `tie` if neither answer is better."""
    columns = row.columns
    names = _names(columns, "response") or _names(columns, "conversation")
    if names is None:
        wanted = " or ".join(f"`response_{first}` and `response_{second}`" for first, second in SIDES)
        raise BadRow("no_text", f"the row must have exactly one pair of answers: {wanted}, or with `conversation_`")
    names = _by_model(columns, *names) or _better_first(columns.get("winner"), *names)
    if names[0].startswith("conversation"):
        chosen, rejected = (message_list(columns.get(name), name) for name in names)
        made = preference([], chosen, rejected, row)
    else:
        made = preference(*_answers(columns, names), row)
    return [replace(made, prompt=with_system(made.prompt, columns))]


def _names(columns: Mapping[str, Any], kind: str) -> tuple[str, str] | None:
    """The columns of both sides, in the order of `SIDES`. None unless the row has exactly one such pair."""
    pairs = [(f"{kind}_{first}", f"{kind}_{second}") for first, second in SIDES]
    there = [names for names in pairs if has(columns, *names)]
    return there[0] if len(there) == 1 else None


def _by_model(columns: Mapping[str, Any], first: str, second: str) -> tuple[str, str] | None:
    """Both columns, the winner's first, if `winner` is the name of one of the two models in `model_a`, `model_b`."""
    models = [columns.get(f"model_{name[-1]}") for name in (first, second)]
    if columns.get("winner") not in models or models[0] == models[1] or None in models:
        return None
    return (first, second) if columns.get("winner") == models[0] else (second, first)


def _better_first(winner: Any, first: str, second: str) -> tuple[str, str]:
    """Both columns, the winner's first. Raises `BadRow` `tie` or `bad_winner`."""
    if is_blank(winner):
        raise BadRow("bad_winner", "`winner` is empty")
    said = str(int(winner) if isinstance(winner, bool) else winner).strip().lower()
    if said in _TIES:
        raise BadRow("tie", f"`winner` is {said!r}: neither answer is better")
    found = _SIDE.fullmatch(said.strip("[]()\"'")[:100])
    side = found["number"] or found["letter"] if found else None
    if side == first[-1]:
        return first, second
    if side == second[-1]:
        return second, first
    raise BadRow(
        "bad_winner",
        f"`winner` is {winner!r:.60}, which names neither `{first}` nor `{second}`; map each answer to the name that "
        "`winner` uses, such as `columns: {response_1: ..., response_0: ...}`",
    )


def _answers(columns: Mapping[str, Any], names: tuple[str, str]) -> tuple[list[Message], list[Message], list[Message]]:
    held = decoded_together(columns, ("prompt", *names))
    prompt = held["prompt"]
    if is_dialogue(prompt):
        chosen, rejected = (parse_answer(prompt, held[name], name) for name in names)
        return parse_prompt(prompt, "prompt"), chosen, rejected
    chosen, rejected = (messages_of(held[name], name, "assistant") for name in names)
    return messages_of(prompt, "prompt", "user"), chosen, rejected


WINNER = DataFormat(
    name="winner",
    summary="`winner` names the better of two answers to `prompt`: `response_a` and `response_b`, `response_0` and "
    "`response_1`, or `response_1` and `response_2`; or the better of two whole conversations, `conversation_a` and "
    "`conversation_b`. Its value ends like that name (`a`, `model_b`, `0`), or is the name in `model_a` or `model_b`; "
    "ties are left out and counted",
    columns=("winner",),
    optional_columns=(
        "prompt",
        *(f"{kind}_{side}" for kind in ("response", "conversation") for side in ("a", "b", "0", "1", "2")),
        *TEMPLATE_COLUMNS,
    ),
    example={
        "prompt": "What is the capital of Peru?",
        "response_a": "Many cities could be named.",
        "response_b": "Lima.",
        "winner": "model_b",
    },
    matches=matches_winner,
    to_rows=from_winner,
)
