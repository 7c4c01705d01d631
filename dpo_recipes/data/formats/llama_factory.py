"""LLaMA-Factory's alpaca and sharegpt rows, with two answers (`ranking: true`) or with a `kto_tag`.

Source: https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpo_recipes.data.formats.messages import (
    assistant_text,
    has,
    is_blank,
    message_of,
    tool_call_of,
    user_text,
    with_system,
)
from dpo_recipes.data.rows import (
    BadRow,
    DataFormat,
    LabelledRow,
    Message,
    PreferenceRow,
    SourceRow,
    decoded,
    labelled,
    preference,
    text_of,
    tools_of,
)

ROLE_OF_TAG = {
    "human": "user",
    "gpt": "assistant",
    "observation": "tool",
    "function_call": "assistant",
    "system": "system",
}
"""The values of `from`, and the roles they stand for; the value of a `function_call` is the JSON of a call."""


def matches_alpaca(columns: Mapping[str, Any]) -> bool:
    """An instruction and two texts."""
    return has(columns, "instruction") and columns.get("prompt") is None and _are_texts(columns, "chosen", "rejected")


def from_alpaca(row: SourceRow) -> list[PreferenceRow]:
    """A preference from an instruction and two answers. Raises `BadRow`."""
    chosen, rejected = (assistant_text(row.columns.get(name), name) for name in ("chosen", "rejected"))
    return [preference(_alpaca_prompt(row), [chosen], [rejected], row, tools=_tools(row))]


def matches_alpaca_kto(columns: Mapping[str, Any]) -> bool:
    """An instruction, an output, and a tag."""
    return has(columns, "instruction", "output", "kto_tag")


def from_alpaca_kto(row: SourceRow) -> list[LabelledRow]:
    """One labelled answer from an instruction and its output. Raises `BadRow`."""
    output = [assistant_text(row.columns.get("output"), "output")]
    return [_tagged(_alpaca_prompt(row), output, row)]


def matches_sharegpt(columns: Mapping[str, Any]) -> bool:
    """A conversation and two answers."""
    return _is_conversation(columns) and has(columns, "chosen", "rejected")


def from_sharegpt(row: SourceRow) -> list[PreferenceRow]:
    """A preference from a conversation and two turns that go on from it. Raises `BadRow`."""
    prompt = _conversation(row)
    chosen, rejected = (_turn(decoded(row.columns.get(name)), name) for name in ("chosen", "rejected"))
    return [preference(prompt, [chosen], [rejected], row, tools=_tools(row))]


def matches_sharegpt_kto(columns: Mapping[str, Any]) -> bool:
    """A conversation and a tag."""
    return _is_conversation(columns) and has(columns, "kto_tag")


def from_sharegpt_kto(row: SourceRow) -> list[LabelledRow]:
    """The last turn of a conversation, labelled. Raises `BadRow`."""
    *prompt, answer = _conversation(row)
    if not prompt:
        raise BadRow("bad_role_order", "`conversations` has one turn; an answer needs one before it")
    return [_tagged(prompt, [answer], row)]


def _alpaca_prompt(row: SourceRow) -> list[Message]:
    """The earlier rounds, then `instruction` and `input` with a line break between them, as upstream."""
    columns = row.columns
    asked = [text_of(columns[name], name) for name in ("instruction", "input") if not is_blank(columns.get(name))]
    messages = _history(columns.get("history"))
    messages.append(user_text("\n".join(asked), "instruction"))
    return with_system(messages, columns)


def _history(value: Any) -> list[Message]:
    rounds = [] if is_blank(value) else decoded(value)
    if not isinstance(rounds, list):
        raise BadRow("bad_message", f"`history` is {type(rounds).__name__}, not a list of rounds")
    messages = []
    for index, turns in enumerate(rounds):
        if not isinstance(turns, list | tuple) or len(turns) != 2:
            raise BadRow("bad_message", f"`history[{index}]` is not a question and its answer")
        messages += [user_text(turns[0], f"history[{index}][0]"), assistant_text(turns[1], f"history[{index}][1]")]
    return messages


def _is_conversation(columns: Mapping[str, Any]) -> bool:
    turns = decoded(columns.get("conversations"))
    return isinstance(turns, list) and bool(turns) and isinstance(turns[0], Mapping) and "from" in turns[0]


def _are_texts(columns: Mapping[str, Any], *names: str) -> bool:
    return all(isinstance(columns.get(name), str) for name in names)


def _conversation(row: SourceRow) -> list[Message]:
    turns = decoded(row.columns.get("conversations"))
    if not isinstance(turns, list) or not turns:
        raise BadRow("no_text", "`conversations` is not a list of turns")
    messages = [_turn(turn, f"conversations[{index}]") for index, turn in enumerate(turns)]
    return with_system(messages, row.columns)


def _turn(value: Any, at: str) -> Message:
    if not isinstance(value, Mapping) or not isinstance(value.get("from"), str):
        raise BadRow("bad_message", f"`{at}` has no `from`")
    tag = value["from"]
    if tag not in ROLE_OF_TAG:
        raise BadRow("bad_role", f"`{at}.from` is `{tag:.60}`; known are {', '.join(ROLE_OF_TAG)}")
    if tag == "function_call":
        return tool_call_of(value.get("value"), f"{at}.value")
    text = text_of(value.get("value"), f"{at}.value")
    return message_of({"role": ROLE_OF_TAG[tag], "content": text}, at)


def _tools(row: SourceRow) -> list[Any] | None:
    """The schemas in `tools`, each as templates expect it: LLaMA-Factory's files have the bare function."""
    tools = tools_of(row.columns.get("tools"), "tools")
    return tools and [tool if "function" in tool else {"type": "function", "function": tool} for tool in tools]


def _tagged(prompt: list[Message], answer: list[Message], row: SourceRow) -> LabelledRow:
    return labelled(prompt, answer, row.columns.get("kto_tag"), row, label_column="kto_tag", tools=_tools(row))


_CONVERSATION = [
    {"from": "human", "value": "I live in Lima."},
    {"from": "gpt", "value": "A fine city."},
    {"from": "human", "value": "What country is it in?"},
]

ALPACA = DataFormat(
    name="alpaca",
    summary="`instruction` with `input` below it, and two answer texts; `history` has the earlier rounds",
    columns=("instruction", "chosen", "rejected"),
    optional_columns=("input", "system", "history", "tools", "chat_template_kwargs"),
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
    optional_columns=("input", "system", "history", "tools", "chat_template_kwargs"),
    example={"instruction": "Translate to Spanish.", "input": "Good morning", "output": "Bonjour", "kto_tag": False},
    matches=matches_alpaca_kto,
    to_rows=from_alpaca_kto,
    kind="labelled",
)

SHAREGPT = DataFormat(
    name="sharegpt",
    summary="`conversations` of turns with `from` and `value`, and two turns `chosen` and `rejected`",
    columns=("conversations", "chosen", "rejected"),
    optional_columns=("system", "tools", "chat_template_kwargs"),
    example={
        "conversations": _CONVERSATION,
        "chosen": {"from": "gpt", "value": "In Peru."},
        "rejected": {"from": "gpt", "value": "In South America."},
    },
    matches=matches_sharegpt,
    to_rows=from_sharegpt,
)

SHAREGPT_KTO = DataFormat(
    name="sharegpt_kto",
    summary="`conversations` that end with an answer, and `kto_tag`: whether it is good",
    columns=("conversations", "kto_tag"),
    optional_columns=("system", "tools", "chat_template_kwargs"),
    example={"conversations": [*_CONVERSATION, {"from": "gpt", "value": "In Peru."}], "kto_tag": True},
    matches=matches_sharegpt_kto,
    to_rows=from_sharegpt_kto,
    kind="labelled",
)
