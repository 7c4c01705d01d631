"""TRL's preference, unpaired preference, prompt-completion and conversational rows.

Source: https://huggingface.co/docs/trl/dataset_formats
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dpo_recipes.data.formats.answers import answers_of, paired
from dpo_recipes.data.formats.dialogue import is_asking, is_whole_dialogue
from dpo_recipes.data.formats.messages import (
    TEMPLATE_COLUMNS,
    decoded_together,
    has,
    is_messages,
    message_list,
    messages_of,
    with_system,
)
from dpo_recipes.data.formats.roles import role_key, role_of
from dpo_recipes.data.rows import (
    BadRow,
    DataFormat,
    Row,
    SourceRow,
    answered,
    decoded,
    dialogue,
    labelled,
    preference,
    template_extras,
)
from dpo_recipes.data.turns import check_prompt


def matches_preference(columns: Mapping[str, Any]) -> bool:
    """Whether `from_preference` can read a row, and it has no scores."""
    return holds_preference(columns) and not has(columns, "score_chosen", "score_rejected")


def holds_preference(columns: Mapping[str, Any]) -> bool:
    """Whether `from_preference` can read a row: a prompt and two answers, or two conversations; no dialogue texts."""
    if not has(columns, "chosen", "rejected") or is_asking(columns.get("prompt")):
        return False
    if is_whole_dialogue(columns["chosen"]) and is_whole_dialogue(columns["rejected"]):
        return False
    if has(columns, "prompt"):
        return True
    return all(_is_conversation(columns[name]) for name in ("chosen", "rejected"))


def _is_conversation(value: Any) -> bool:
    """Whether a value is a list of messages that has more than answers, such as a question after a greeting."""
    if not is_messages(value):
        return False
    messages = decoded(value)
    keys = [role_key(message) for message in messages]
    return any(key and role_of(message[key]) != "assistant" for key, message in zip(keys, messages, strict=True))


def from_preference(row: SourceRow) -> list[Row]:
    """The preferences from one row, one for each pair of answers. Raises `BadRow`.

    If there is no prompt, it consists of the turns that both conversations share. A text in the column `system` is put
    in front.
    """
    columns = decoded_together(row.columns, ("prompt", "chosen", "rejected"))
    _check_no_names(columns, row)
    if columns["prompt"] is None and not is_messages(columns["chosen"]):
        raise BadRow("no_text", "`prompt` is empty, and `chosen` is not a conversation")
    prompt = [] if columns["prompt"] is None else messages_of(columns["prompt"], "prompt", "user")
    pairs = paired(answers_of(columns["chosen"], "chosen"), answers_of(columns["rejected"], "rejected"))
    made = [preference(prompt, chosen, rejected, row) for chosen, rejected in pairs]
    return [replace(one, prompt=with_system(one.prompt, row.columns)) for one in made]


def _check_no_names(columns: Mapping[str, Any], row: SourceRow) -> None:
    """Raises `BadRow` `names_column` if both answers are the names of columns, or the ends of such names."""
    for start in ("", "response_", "answer_", "completion_", "output_"):
        names = [f"{start}{columns[name]}" for name in ("chosen", "rejected") if isinstance(columns[name], str)]
        if len(names) == 2 and all(name in row.columns for name in names):
            raise BadRow(
                "names_column",
                f"`chosen` is {columns['chosen']!r}, which names the column `{names[0]}`, and is not an answer; use "
                f"`format: winner` with `columns: {{winner: chosen, response_a: ..., response_b: ...}}`",
            )


def has_one_answer(columns: Mapping[str, Any]) -> bool:
    """Whether no column of a row has a second answer, or says whether the answer is good."""
    others = ("chosen", "rejected", "rejected_response", "rejected_messages", "winner", "label", "kto_tag")
    return all(columns.get(name) is None for name in others)


def matches_messages(columns: Mapping[str, Any]) -> bool:
    """Whether a row has a conversation, and nothing but its answers to learn from."""
    return is_messages(columns.get("messages")) and has_one_answer(columns) and not has(columns, "prompt", "completion")


def from_messages(row: SourceRow) -> list[Row]:
    """A dialogue whose answers are all turns of the assistant. Raises `BadRow`."""
    messages = with_system(message_list(row.columns.get("messages"), "messages"), row.columns)
    return [dialogue(messages, "messages", row)]


def matches_prompt_completion(columns: Mapping[str, Any]) -> bool:
    """Whether a row has a prompt and one answer without a label."""
    answer = columns.get("completion")
    return has(columns, "prompt") and (isinstance(answer, str) or is_messages(answer)) and has_one_answer(columns)


def from_prompt_completion(row: SourceRow) -> list[Row]:
    """One answer from one row. Raises `BadRow`."""
    columns = decoded_together(row.columns, ("prompt", "completion"))
    prompt = messages_of(columns["prompt"], "prompt", "user")
    made = answered(prompt, messages_of(columns["completion"], "completion", "assistant"), row)
    return [replace(made, prompt=with_system(made.prompt, row.columns))]


def matches_unpaired(columns: Mapping[str, Any]) -> bool:
    """Whether a row has a prompt, one answer and its label."""
    return has(columns, "prompt", "completion", "label")


def from_unpaired(row: SourceRow) -> list[Row]:
    """One labelled answer from one row. Raises `BadRow`."""
    columns = decoded_together(row.columns, ("prompt", "completion"))
    prompt = messages_of(columns["prompt"], "prompt", "user")
    completion = messages_of(columns["completion"], "completion", "assistant")
    made = labelled(prompt, completion, row.columns.get("label"), row)
    return [replace(made, prompt=with_system(made.prompt, row.columns))]


def matches_prompt(columns: Mapping[str, Any]) -> bool:
    """Whether a row has a prompt; it may have anything else."""
    prompt = decoded(columns.get("prompt"))
    return isinstance(prompt, str) or is_messages(prompt)


def from_prompt(row: SourceRow) -> list[Row]:
    """A prompt without an answer. Raises `BadRow`."""
    prompt = messages_of(decoded(row.columns.get("prompt")), "prompt", "user")
    check_prompt(prompt)
    return [Row(with_system(prompt, row.columns), (), row.where, **template_extras(row))]


PREFERENCE = DataFormat(
    name="preference",
    summary="`prompt`, `chosen`, `rejected` as texts or lists of messages; without `prompt`, two conversations that "
    "start with the same turns. Lists of texts in `chosen` and `rejected` are several answers: two lists of the same "
    "length are paired by position, a single answer is paired with each of the others, and other lengths are a bad row",
    columns=("chosen", "rejected"),
    optional_columns=("prompt", *TEMPLATE_COLUMNS),
    example={
        "prompt": [{"role": "user", "content": "What is the capital of Peru?"}],
        "chosen": [{"role": "assistant", "content": "Lima."}],
        "rejected": [{"role": "assistant", "content": "Many cities could be named."}],
    },
    matches=matches_preference,
    to_rows=from_preference,
)

UNPAIRED = DataFormat(
    name="unpaired",
    summary="`prompt` and `completion` as texts or lists of messages, and `label`: whether the answer is good",
    columns=("prompt", "completion", "label"),
    optional_columns=TEMPLATE_COLUMNS,
    example={"prompt": "What is the capital of Peru?", "completion": "Lima.", "label": True},
    matches=matches_unpaired,
    to_rows=from_unpaired,
    kind="labelled",
)

MESSAGES = DataFormat(
    name="messages",
    summary="`messages` are a whole conversation that ends with an answer. Every turn of the assistant is an answer to "
    "imitate; `data.train_on_turns: last` takes only the last one",
    columns=("messages",),
    optional_columns=TEMPLATE_COLUMNS,
    example={
        "messages": [
            {"role": "user", "content": "What is the capital of Peru?"},
            {"role": "assistant", "content": "Lima."},
            {"role": "user", "content": "And of Chile?"},
            {"role": "assistant", "content": "Santiago."},
        ]
    },
    matches=matches_messages,
    to_rows=from_messages,
    kind="completion",
)

PROMPT = DataFormat(
    name="prompt",
    summary="`prompt` as a text or a list of messages, which the model answers in training. `auto` chooses it for "
    "objectives that need no answers, if no other format fits",
    columns=("prompt",),
    optional_columns=TEMPLATE_COLUMNS,
    example={"prompt": "What is the capital of Peru?"},
    matches=matches_prompt,
    to_rows=from_prompt,
    kind="prompt",
    detect=False,
)

PROMPT_COMPLETION = DataFormat(
    name="prompt_completion",
    summary="`prompt` and `completion` as texts or lists of messages",
    columns=("prompt", "completion"),
    optional_columns=TEMPLATE_COLUMNS,
    example={"prompt": "What is the capital of Peru?", "completion": "Lima."},
    matches=matches_prompt_completion,
    to_rows=from_prompt_completion,
    kind="completion",
)
