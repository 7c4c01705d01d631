"""Finds where the prompt of two conversations ends and their answers start.

Datasets have several layouts: only the answers, the answers after a copy of the prompt, or two whole conversations with
a prompt column that contains only the first or only the last question. In each of them the prompt is every turn that
both conversations share.
"""

from __future__ import annotations

from collections.abc import Sequence

from dpo_recipes.data.message import SYSTEM_ROLES, BadRow, Message

Divided = tuple[list[Message], list[Message], list[Message]]
"""The prompt, the chosen and the rejected answer."""
_SHOWN = 60
"""The number of characters of a text that an error shows."""


def divide_conversations(prompt: list[Message], chosen: list[Message], rejected: list[Message]) -> Divided:
    """The whole prompt, and the turns of each answer after it.

    An answer that does not start with the assistant is a whole conversation, which repeats the prompt or the part of it
    in the prompt column. Turns at the start of both answers that are equal belong to the prompt as well. Raises
    `BadRow`: `equal_answers`, `no_shared_prompt`, and `prompt_differs` if a conversation has a different prompt.
    """
    system, asked = _without_system(prompt)
    whole = _repeats(asked, chosen, rejected)
    before = [
        (system if answer[0]["role"] not in SYSTEM_ROLES else []) if is_whole else prompt
        for answer, is_whole in zip((chosen, rejected), whole, strict=True)
    ]
    shared, chosen, rejected = split_shared_prompt([*before[0], *chosen], [*before[1], *rejected])
    return (_settle(system, asked, shared) if any(whole) else shared), chosen, rejected


def split_shared_prompt(chosen: list[Message], rejected: list[Message]) -> Divided:
    """The messages that two conversations share at their start, and the rest of each.

    The shared part ends before the first assistant turn that differs, or before the first of several assistant turns in
    a row. Raises `BadRow`: `equal_answers`, and `no_shared_prompt` if nothing is shared or the first turn that differs
    is not the assistant's.
    """
    if chosen == rejected:
        raise BadRow("equal_answers", "chosen and rejected are equal")
    parted = 0
    while parted < min(len(chosen), len(rejected)) and _is_same(chosen[parted], rejected[parted]):
        parted += 1
    shared = parted
    speakers = {turn["role"] for turn in (*chosen[parted : parted + 1], *rejected[parted : parted + 1])}
    if speakers == {"assistant"}:
        while shared and chosen[shared - 1]["role"] == "assistant":
            shared -= 1
    if speakers != {"assistant"} or not shared:
        parting = _parting(parted, chosen[parted:], rejected[parted:])
        raise BadRow("no_shared_prompt", f"chosen and rejected are not two answers to the same prompt: {parting}")
    return chosen[:shared], chosen[shared:], rejected[shared:]


def split_dialogue(messages: list[Message], column: str) -> tuple[list[Message], list[Message]]:
    """The messages before the assistant's first reply to a user or tool, and those from it on. Raises `BadRow`."""
    check_answer_end(messages, column)
    replies = [place for place, message in enumerate(messages) if _is_reply(messages, place)]
    if not replies:
        raise BadRow("bad_role_order", f"`{column}` has no answer of `assistant` to a message of `user` or `tool`")
    check_prompt(messages[: replies[-1]])  # the longest prompt, so that the roles of all messages are checked
    return messages[: replies[0]], messages[replies[0] :]


def last_reply(answer: list[Message]) -> int:
    """The index at which the assistant's last turn begins: after the last message of another role."""
    return next((place + 1 for place in reversed(range(len(answer))) if answer[place]["role"] != "assistant"), 0)


def _is_reply(messages: list[Message], place: int) -> bool:
    """Whether a message is the first one of a turn of the assistant that answers a user or tool."""
    return bool(place) and messages[place]["role"] == "assistant" and messages[place - 1]["role"] in ("user", "tool")


def check_prompt(prompt: list[Message]) -> None:
    """Raises `BadRow` unless the prompt can be answered.

    It must end with a message of the user or a tool, a system message may only be the first, and a tool message must
    follow one of the assistant, who may start with a greeting.
    """
    roles = [message["role"] for message in prompt]
    if all(role in SYSTEM_ROLES for role in roles):
        raise BadRow("only_system", "the prompt only contains a system message")
    if roles[-1] not in ("user", "tool"):
        raise BadRow("bad_role_order", f"the prompt ends with a message of `{roles[-1]}`, not of `user`")
    for index, role in enumerate(roles):
        if role in SYSTEM_ROLES and index > 0:
            raise BadRow("bad_role_order", f"message {index + 1} of the prompt has the role `{role}`")
        if role == "tool" and (index == 0 or roles[index - 1] not in ("assistant", "tool")):
            raise BadRow("bad_role_order", f"a `tool` message follows `{roles[index - 1] if index else 'nothing'}`")


def check_answer_end(answer: list[Message], name: str) -> None:
    """Raises `BadRow` unless the answer ends with an assistant's message."""
    if answer[-1]["role"] != "assistant":
        raise BadRow("bad_role_order", f"`{name}` ends with a message of `{answer[-1]['role']}`, not of `assistant`")


def _repeats(asked: list[Message], *answers: list[Message]) -> list[bool]:
    """Whether each answer is a whole conversation.

    One that starts with a greeting of the assistant is recognized by the prompt among the turns that both share.
    """
    whole = [answer[0]["role"] != "assistant" for answer in answers]
    if any(whole) or not asked or not _is_same(answers[0][0], answers[1][0]):
        return whole
    alike = next((i for i, (a, b) in enumerate(zip(*answers, strict=False)) if not _is_same(a, b)), 0)
    return [_holds(answers[0][:alike], asked)] * 2


def _settle(system: list[Message], asked: list[Message], shared: list[Message]) -> list[Message]:
    """The prompt, combined from its own column and from the turns that two conversations share."""
    own_system, turns = _without_system(shared)
    if system and not _are_same(system, own_system):
        systems = f"{_quote(system)} and {_quote(own_system)}"
        raise BadRow("prompt_differs", f"prompt and conversations have different system messages, {systems}")
    if _holds(turns, asked):
        return shared
    if turns and _are_same(asked[-len(turns) :], turns):  # the conversations repeat only the end of the prompt
        return [*own_system, *asked]
    raise BadRow(
        "prompt_differs",
        f"the turns that chosen and rejected share do not contain the prompt: it is {_quote(asked)}, and they share "
        f"{_quote(turns)}",
    )


def _holds(turns: Sequence[Message], asked: Sequence[Message]) -> bool:
    """Whether `turns` contains the turns of a prompt as one consecutive part."""
    return any(_are_same(turns[at : at + len(asked)], asked) for at in range(len(turns) - len(asked) + 1))


def _without_system(messages: list[Message]) -> tuple[list[Message], list[Message]]:
    count = next((i for i, message in enumerate(messages) if message["role"] not in SYSTEM_ROLES), len(messages))
    return messages[:count], messages[count:]


def _are_same(first: Sequence[Message], second: Sequence[Message]) -> bool:
    return len(first) == len(second) and all(map(_is_same, first, second))


def _is_same(first: Message, second: Message) -> bool:
    """Whether two turns are equal; surrounding spaces are ignored unless the turn is the assistant's."""
    if first == second:
        return True
    if first["role"] == "assistant" or first["content"].strip() != second["content"].strip():
        return False
    return {**first, "content": ""} == {**second, "content": ""}


def _parting(place: int, chosen: Sequence[Message], rejected: Sequence[Message]) -> str:
    """Why two conversations are not a pair, from the turns after the `rank` ones that they share."""
    if not place:
        return "their first messages differ"
    if not chosen or not rejected:
        longer, turns = ("chosen", chosen) if chosen else ("rejected", rejected)
        return f"{longer} continues with a message of `{turns[0]['role']}`, and the other one ends"
    roles = chosen[0]["role"], rejected[0]["role"]
    who = f"`{roles[0]}`" if roles[0] == roles[1] else f"`{roles[0]}` in chosen and `{roles[1]}` in rejected"
    return f"they first differ at message {place + 1}, which is of {who}"


def _quote(messages: Sequence[Message]) -> str:
    """The last of some messages, shortened, for an error text."""
    if not messages:
        return "nothing"
    text = " ".join(messages[-1]["content"].split())
    before = f"{len(messages)} turns up to " if len(messages) > 1 else ""
    return f'{before}"{text[:_SHOWN]}{"..." if len(text) > _SHOWN else ""}"'
