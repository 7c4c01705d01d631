"""Rows with several answers to one prompt and their ranks, 1 being the best, as in Nectar.

Source: https://huggingface.co/datasets/berkeley-nest/Nectar
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpo_recipes.data.formats.dialogue import parse_prompt
from dpo_recipes.data.formats.messages import (
    TEMPLATE_COLUMNS,
    assistant_text,
    has,
    is_messages,
    message_list,
    number_of,
    with_system,
)
from dpo_recipes.data.rows import BadRow, DataFormat, Message, Row, SourceRow, decoded, preference


def matches(columns: Mapping[str, Any]) -> bool:
    """Whether a row has a prompt and a list of answers with ranks."""
    answers = decoded(columns.get("answers"))
    if not has(columns, "prompt") or not isinstance(answers, list) or not answers:
        return False
    return all(isinstance(answer, Mapping) and {"answer", "rank"} <= set(answer) for answer in answers)


def from_ranked(row: SourceRow) -> list[Row]:
    """A preference of the best answer over each answer of a lower rank, in the order of ranks. Raises `BadRow`."""
    best, *worse = ranked_answers(row)
    return [preference(_prompt(row), [best], [answer], row) for answer in worse]


def from_best_two(row: SourceRow) -> list[Row]:
    """A preference of the best answer over the next one. Raises `BadRow`."""
    best, second, *_ = ranked_answers(row)
    return [preference(_prompt(row), [best], [second], row)]


def ranked_answers(row: SourceRow) -> list[Message]:
    """The best answer, then those of lower ranks in order; at least two answers.

    If several answers share the best rank, only the first is used. An answer equal to the best one is left out.
    Raises `BadRow`: `no_text`, `bad_message`, `bad_number` and `tied_ranks`.
    """
    answers = decoded(row.columns.get("answers"))
    if not isinstance(answers, list) or not answers:
        raise BadRow("no_text", "`answers` is not a list of answers")
    ranked: list[tuple[float, Message]] = []
    for index, answer in enumerate(answers):
        if not isinstance(answer, Mapping):
            raise BadRow("bad_message", f"`answers[{index}]` is {type(answer).__name__}, not an answer with a rank")
        rank = number_of(answer.get("rank"), f"answers[{index}].rank")
        ranked.append((rank, assistant_text(answer.get("answer"), f"answers[{index}].answer")))
    ranked.sort(key=lambda entry: entry[0])
    best_rank, best = ranked[0]
    worse = [answer for rank, answer in ranked if rank > best_rank and answer != best]
    if not worse:
        raise BadRow("tied_ranks", "`answers` has no answer of a lower rank than the best one")
    return [best, *worse]


def _prompt(row: SourceRow) -> list[Message]:
    prompt = row.columns.get("prompt")
    messages = message_list(prompt, "prompt") if is_messages(prompt) else parse_prompt(prompt, "prompt")
    return with_system(messages, row.columns)


EXAMPLE: dict[str, Any] = {
    "prompt": "\n\nHuman: Name a prime above ten.\n\nAssistant: ",
    "answers": [
        {"answer": "Twelve.", "rank": 3},
        {"answer": "11 is one.", "rank": 1},
        {"answer": "Seven.", "rank": 2},
    ],
}

RANKED = DataFormat(
    name="ranked",
    summary="a list of `answers` with their `rank`, 1 being the best; each answer ranked below the best makes one pair "
    "with it",
    columns=("prompt", "answers"),
    optional_columns=TEMPLATE_COLUMNS,
    example=EXAMPLE,
    matches=matches,
    to_rows=from_ranked,
)
