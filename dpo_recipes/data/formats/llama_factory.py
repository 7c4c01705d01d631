"""LLaMA-Factory's alpaca and sharegpt rows: with two answers (`ranking: true`), a `kto_tag`, or one answer.

Source: https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpo_recipes.data.formats.messages import (
    TEMPLATE_COLUMNS,
    assistant_text,
    has,
    is_blank,
    is_messages,
    message_list,
    message_of,
    messages_of,
    split_answer,
    user_text,
    with_system,
)
from dpo_recipes.data.formats.roles import plain_name, role_key, role_of
from dpo_recipes.data.formats.trl import has_one_answer
from dpo_recipes.data.nulls import is_nothing
from dpo_recipes.data.rows import (
    BadRow,
    DataFormat,
    Message,
    Row,
    SourceRow,
    answered,
    decoded,
    dialogue,
    labelled,
    preference,
    text_of,
    tools_of,
)


def matches_alpaca(columns: Mapping[str, Any]) -> bool:
    """Whether a row has an instruction and two answer texts."""
    return has(columns, "instruction") and columns.get("prompt") is None and _are_texts(columns, "chosen", "rejected")


def from_alpaca(row: SourceRow) -> list[Row]:
    """A preference from an instruction and two answers. Raises `BadRow`."""
    chosen, rejected = (assistant_text(row.columns.get(name), name) for name in ("chosen", "rejected"))
    return [preference(_alpaca_prompt(row), [chosen], [rejected], row, tools=_tools(row))]


def matches_alpaca_kto(columns: Mapping[str, Any]) -> bool:
    """Whether a row has an instruction, an output and a tag."""
    return has(columns, "instruction", "output", "kto_tag")


def from_alpaca_kto(row: SourceRow) -> list[Row]:
    """One labelled answer from an instruction and its output. Raises `BadRow`."""
    output = [assistant_text(row.columns.get("output"), "output")]
    return [_tagged(_alpaca_prompt(row), output, row)]


def matches_alpaca_sft(columns: Mapping[str, Any]) -> bool:
    """Whether a row has an instruction, and one output without a tag."""
    is_other = has(columns, "prompt", "completion") or is_messages(columns.get("messages"))
    return has(columns, "instruction") and _are_texts(columns, "output") and has_one_answer(columns) and not is_other


def from_alpaca_sft(row: SourceRow) -> list[Row]:
    """One answer from an instruction and its output. Raises `BadRow`."""
    output = [assistant_text(row.columns.get("output"), "output")]
    return [answered(_alpaca_prompt(row), output, row, tools=_tools(row))]


def matches_sharegpt(columns: Mapping[str, Any]) -> bool:
    """Whether a row has a conversation and two answers."""
    return is_messages(columns.get("conversations")) and has(columns, "chosen", "rejected")


def from_sharegpt(row: SourceRow) -> list[Row]:
    """A preference from a conversation and two answers, each a turn, a list of turns or a text. Raises `BadRow`."""
    columns = row.columns
    prompt = with_system(message_list(columns.get("conversations"), "conversations"), columns)
    chosen, rejected = (_answer(columns.get(name), name) for name in ("chosen", "rejected"))
    return [preference(prompt, chosen, rejected, row, tools=_tools(row))]


def matches_sharegpt_pair(columns: Mapping[str, Any]) -> bool:
    """Whether a row has a conversation that contains both answers."""
    turns = decoded(columns.get("conversations"))
    return is_messages(turns) and any(_side(turn) for turn in turns)


def from_sharegpt_pair(row: SourceRow) -> list[Row]:
    """A preference from a conversation that ends with the turns of `chosen_gpt` and `rejected_gpt`. Raises `BadRow`.

    If the conversation has earlier pairs, their chosen turns are part of the prompt and their rejected ones left out.
    """
    turns = decoded(row.columns.get("conversations"))
    if not isinstance(turns, list) or len(turns) < 2:
        raise BadRow("no_text", "`conversations` is not a list of turns")
    sides = {_side(turn): turn for turn in turns[-2:]}
    if set(sides) != {"chosen", "rejected"}:
        raise BadRow(
            "bad_role_order", "`conversations` does not end with a turn of `chosen_gpt` and one of `rejected_gpt`"
        )
    earlier = [_as_spoken(turn) for turn in turns[:-2] if _side(turn) != "rejected"]
    prompt = with_system(message_list(earlier, "conversations"), row.columns)
    chosen, rejected = (
        message_of(_as_spoken(sides[name]), f"conversations.{name}_gpt") for name in ("chosen", "rejected")
    )
    return [preference(prompt, [chosen], [rejected], row, tools=_tools(row))]


def matches_sharegpt_sft(columns: Mapping[str, Any]) -> bool:
    """Whether a row has a conversation with one answer to each question, and no tag."""
    is_other = is_messages(columns.get("messages")) or has(columns, "prompt", "completion")
    is_other |= has(columns, "instruction", "output")
    return (
        is_messages(columns.get("conversations"))
        and has_one_answer(columns)
        and not matches_sharegpt_pair(columns)
        and not is_other
    )


def from_sharegpt_sft(row: SourceRow) -> list[Row]:
    """A dialogue whose answers are all turns of the assistant. Raises `BadRow`."""
    turns = with_system(message_list(row.columns.get("conversations"), "conversations"), row.columns)
    return [dialogue(turns, "conversations", row, tools=_tools(row))]


def matches_sharegpt_kto(columns: Mapping[str, Any]) -> bool:
    """Whether a row has a conversation and a tag."""
    return is_messages(columns.get("conversations")) and has(columns, "kto_tag")


def from_sharegpt_kto(row: SourceRow) -> list[Row]:
    """The last turn of a conversation, labelled. Raises `BadRow`."""
    prompt, answer = split_answer(message_list(row.columns.get("conversations"), "conversations"), "conversations")
    return [_tagged(with_system(prompt, row.columns), [answer], row)]


def _alpaca_prompt(row: SourceRow) -> list[Message]:
    """The earlier rounds, then `instruction` and `input` joined by a line break, as in LLaMA-Factory."""
    columns = row.columns
    asked = [text_of(columns["instruction"], "instruction")] if not is_blank(columns.get("instruction")) else []
    if not is_nothing(columns.get("input")):
        asked.append(text_of(columns["input"], "input"))
    messages = history_of(columns.get("history"))
    messages.append(user_text("\n".join(asked), "instruction"))
    return with_system(messages, columns)


def history_of(value: Any) -> list[Message]:
    """The messages of earlier rounds, each a question and its answer. Raises `BadRow`."""
    rounds = [] if is_blank(value) else decoded(value)
    if not isinstance(rounds, list):
        raise BadRow("bad_message", f"`history` is {type(rounds).__name__}, not a list of rounds")
    messages = []
    for index, turns in enumerate(rounds):
        if not isinstance(turns, list | tuple) or len(turns) != 2:
            raise BadRow("bad_message", f"`history[{index}]` is not a question and its answer")
        messages += [user_text(turns[0], f"history[{index}][0]"), assistant_text(turns[1], f"history[{index}][1]")]
    return messages


def _are_texts(columns: Mapping[str, Any], *names: str) -> bool:
    return all(isinstance(columns.get(name), str) for name in names)


def _answer(value: Any, column: str) -> list[Message]:
    held = decoded(value)
    return messages_of(held if role_key(held) or is_messages(held) else value, column, "assistant")


def _side(turn: Any) -> str | None:
    """`chosen` or `rejected` for a turn such as `chosen_gpt` or `rejected_gpt`. None for any other turn."""
    key = role_key(turn)
    side, _, speaker = plain_name(turn[key]).partition("_") if key else ("", "", "")
    return side if side in ("chosen", "rejected") and (not speaker or role_of(speaker) == "assistant") else None


def _as_spoken(turn: Any) -> Any:
    """A turn of `chosen_gpt` or `rejected_gpt` as a turn of the assistant; any other turn unchanged."""
    return {**turn, role_key(turn): "assistant"} if _side(turn) else turn


def _tools(row: SourceRow) -> list[Any] | None:
    """The schemas in `tools` as templates expect them. LLaMA-Factory's files have only the inner `function` object."""
    tools = tools_of(row.columns.get("tools"), "tools")
    return tools and [tool if "function" in tool else {"type": "function", "function": tool} for tool in tools]


def _tagged(prompt: list[Message], answer: list[Message], row: SourceRow) -> Row:
    return labelled(prompt, answer, row.columns.get("kto_tag"), row, label_column="kto_tag", tools=_tools(row))


def matches_chosen_messages(columns: Mapping[str, Any]) -> bool:
    """Whether a row has two whole conversations under the names of LLaMA-Factory's version 1."""
    return all(is_messages(columns.get(name)) for name in ("chosen_messages", "rejected_messages"))


def from_chosen_messages(row: SourceRow) -> list[Row]:
    """A preference from two conversations that start with the same turns. Raises `BadRow`."""
    names = ("chosen_messages", "rejected_messages")
    chosen, rejected = (with_system(message_list(row.columns.get(name), name), row.columns) for name in names)
    return [preference([], chosen, rejected, row, tools=_tools(row))]


_CONVERSATION = [
    {"from": "human", "value": "I live in Lima."},
    {"from": "gpt", "value": "A fine city."},
    {"from": "human", "value": "What country is it in?"},
]

_SAID = {"role": "user", "content": [{"type": "text", "value": "What country is Lima in?"}], "loss_weight": 0.0}

CHOSEN_MESSAGES = DataFormat(
    name="chosen_messages",
    summary="`chosen_messages` and `rejected_messages` are whole conversations that start with the same turns, as in "
    "LLaMA-Factory's version 1",
    columns=("chosen_messages", "rejected_messages"),
    optional_columns=TEMPLATE_COLUMNS,
    example={
        "chosen_messages": [_SAID, {"role": "assistant", "content": [{"type": "text", "value": "In Peru."}]}],
        "rejected_messages": [_SAID, {"role": "assistant", "content": [{"type": "text", "value": "In America."}]}],
    },
    matches=matches_chosen_messages,
    to_rows=from_chosen_messages,
)

ALPACA = DataFormat(
    name="alpaca",
    summary="`instruction` with `input` below it, and the texts of two answers; `history` has the earlier rounds",
    columns=("instruction", "chosen", "rejected"),
    optional_columns=("input", "history", *TEMPLATE_COLUMNS),
    example={
        "instruction": "Translate to Spanish.",
        "input": "Good morning",
        "chosen": "Buenos días",
        "rejected": "Bonjour",
        "history": [["Translate to Spanish: yes", "sí"]],
    },
    matches=matches_alpaca,
    to_rows=from_alpaca,
)

ALPACA_KTO = DataFormat(
    name="alpaca_kto",
    summary="`instruction`, `input` and `output`, and `kto_tag`: whether the output is good",
    columns=("instruction", "output", "kto_tag"),
    optional_columns=("input", "history", *TEMPLATE_COLUMNS),
    example={"instruction": "Translate to Spanish.", "input": "Good morning", "output": "Bonjour", "kto_tag": False},
    matches=matches_alpaca_kto,
    to_rows=from_alpaca_kto,
    kind="labelled",
)

SHAREGPT = DataFormat(
    name="sharegpt",
    summary="`conversations` of turns with `from` and `value`, and two answers `chosen` and `rejected`: a turn each, a "
    "list of turns, or a text",
    columns=("conversations", "chosen", "rejected"),
    optional_columns=TEMPLATE_COLUMNS,
    example={
        "conversations": _CONVERSATION,
        "chosen": {"from": "gpt", "value": "In Peru."},
        "rejected": {"from": "gpt", "value": "In South America."},
    },
    matches=matches_sharegpt,
    to_rows=from_sharegpt,
)

SHAREGPT_PAIR = DataFormat(
    name="sharegpt_pair",
    summary="`conversations` that end with a turn of `chosen_gpt` and one of `rejected_gpt`",
    columns=("conversations",),
    optional_columns=TEMPLATE_COLUMNS,
    example={
        "conversations": [
            *_CONVERSATION,
            {"from": "chosen_gpt", "value": "In Peru."},
            {"from": "rejected_gpt", "value": "In South America."},
        ],
    },
    matches=matches_sharegpt_pair,
    to_rows=from_sharegpt_pair,
)

SHAREGPT_KTO = DataFormat(
    name="sharegpt_kto",
    summary="`conversations` that end with an answer, and `kto_tag`: whether it is good",
    columns=("conversations", "kto_tag"),
    optional_columns=TEMPLATE_COLUMNS,
    example={"conversations": [*_CONVERSATION, {"from": "gpt", "value": "In Peru."}], "kto_tag": True},
    matches=matches_sharegpt_kto,
    to_rows=from_sharegpt_kto,
    kind="labelled",
)

ALPACA_SFT = DataFormat(
    name="alpaca_sft",
    summary="`instruction` with `input` below it, and its `output`; `history` has the earlier rounds",
    columns=("instruction", "output"),
    optional_columns=("input", "history", *TEMPLATE_COLUMNS),
    example={"instruction": "Translate to Spanish.", "input": "Good morning", "output": "Buenos días"},
    matches=matches_alpaca_sft,
    to_rows=from_alpaca_sft,
    kind="completion",
)

SHAREGPT_SFT = DataFormat(
    name="sharegpt_sft",
    summary="`conversations` of turns with `from` and `value` that end with an answer. Every turn of the assistant is "
    "an answer to imitate; `data.train_on_turns: last` takes only the last one",
    columns=("conversations",),
    optional_columns=TEMPLATE_COLUMNS,
    example={"conversations": [*_CONVERSATION, {"from": "gpt", "value": "In Peru."}]},
    matches=matches_sharegpt_sft,
    to_rows=from_sharegpt_sft,
    kind="completion",
)
