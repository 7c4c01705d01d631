"""Where the prompt ends, whichever part of it the prompt's own column holds."""

from __future__ import annotations

from typing import Any

import pytest

from dpo_recipes import registry
from dpo_recipes.data.message import BadRow, Message
from dpo_recipes.data.rows import SourceRow
from dpo_recipes.data.turns import divide_conversations


def says(role: str, content: str) -> Message:
    return Message(role=role, content=content)


SYSTEM, FIRST, REPLY, LAST = (
    says("system", "Be kind."),
    says("user", "Teach me a card trick."),
    says("assistant", "Pick two cards."),
    says("user", "And then?"),
)
GOOD, BAD = says("assistant", "Turn them over."), says("assistant", "I do not know.")
SHARED = [FIRST, REPLY, LAST]


@pytest.mark.parametrize("before", [[], [SYSTEM]], ids=["plain", "system"])
@pytest.mark.parametrize(
    "prompt",
    [[], [FIRST], [LAST], SHARED, [REPLY, LAST], [says("user", " Teach me a card trick.\n")]],
    ids=["none", "first question", "last question", "all", "end", "spaces around it"],
)
def test_the_prompt_is_all_that_two_conversations_share(before: list[Message], prompt: list[Message]) -> None:
    chosen, rejected = [*before, *SHARED, GOOD], [*before, *SHARED, BAD]
    assert divide_conversations(prompt, chosen, rejected) == ([*before, *SHARED], [GOOD], [BAD])
    with_system = [*before, *prompt]
    assert divide_conversations(with_system, chosen, rejected) == ([*before, *SHARED], [GOOD], [BAD])


def test_a_system_message_may_stand_in_the_prompt_alone() -> None:
    conversations = [*SHARED, GOOD], [*SHARED, BAD]
    assert divide_conversations([SYSTEM, *SHARED], *conversations) == ([SYSTEM, *SHARED], [GOOD], [BAD])
    assert divide_conversations([SYSTEM, FIRST], *conversations) == ([SYSTEM, *SHARED], [GOOD], [BAD])
    assert divide_conversations([SYSTEM], *conversations) == ([SYSTEM, *SHARED], [GOOD], [BAD])


def test_conversations_may_repeat_only_the_end_of_the_prompt() -> None:
    made = divide_conversations([SYSTEM, *SHARED], [LAST, GOOD], [LAST, BAD])
    assert made == ([SYSTEM, *SHARED], [GOOD], [BAD])


def test_turns_with_which_both_answers_begin_belong_to_the_prompt() -> None:
    made = divide_conversations([SYSTEM, FIRST], [REPLY, LAST, GOOD], [REPLY, LAST, BAD])
    assert made == ([SYSTEM, *SHARED], [GOOD], [BAD])
    calls: Message = {**says("assistant", ""), "tool_calls": [{"type": "function", "function": {"name": "shuffle"}}]}
    result = says("tool", "done")
    assert divide_conversations([FIRST], [calls, result, GOOD], [calls, result, BAD])[0] == [FIRST, calls, result]


def test_one_of_two_answers_may_be_a_whole_conversation() -> None:
    assert divide_conversations([SYSTEM, FIRST], [FIRST, GOOD], [BAD]) == ([SYSTEM, FIRST], [GOOD], [BAD])
    assert divide_conversations(SHARED, [GOOD], [*SHARED, BAD]) == (SHARED, [GOOD], [BAD])


def test_a_conversation_may_begin_with_a_greeting_of_the_assistant() -> None:
    hello = says("assistant", "Hello.")
    for prompt in ([], [FIRST], [hello, FIRST]):
        assert divide_conversations(prompt, [hello, FIRST, GOOD], [hello, FIRST, BAD]) == (
            [hello, FIRST],
            [GOOD],
            [BAD],
        )


def test_answers_that_part_at_their_first_turn_keep_all_that_follows() -> None:
    chosen, rejected = [GOOD, LAST, REPLY], [BAD, says("user", "No."), REPLY]
    assert divide_conversations([FIRST], chosen, rejected) == ([FIRST], chosen, rejected)
    assert divide_conversations([], [FIRST, *chosen], [FIRST, *rejected]) == ([FIRST], chosen, rejected)


def test_a_prompt_never_ends_between_two_turns_of_the_assistant() -> None:
    assert divide_conversations([FIRST], [REPLY, GOOD], [REPLY, BAD]) == ([FIRST], [REPLY, GOOD], [REPLY, BAD])


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "reason", "words"),
    [
        (
            [says("user", "Something else")],
            [*SHARED, GOOD],
            [*SHARED, BAD],
            "prompt_differs",
            'it is "Something else", and they share 3 turns up to "And then?"',
        ),
        (SHARED, [FIRST, GOOD], [FIRST, BAD], "prompt_differs", "it is 3 turns up to"),
        ([says("system", "Be rude."), FIRST], [SYSTEM, FIRST, GOOD], [SYSTEM, FIRST, BAD], "prompt_differs", "system"),
        ([], [FIRST, REPLY, FIRST, GOOD], [FIRST, REPLY, LAST, BAD], "no_shared_prompt", "message 3, which is of"),
        ([FIRST], [REPLY, FIRST, GOOD], [REPLY, LAST, BAD], "no_shared_prompt", "message 3, which is of"),
        ([], [FIRST, GOOD], [FIRST, GOOD, LAST, BAD], "no_shared_prompt", "rejected continues with a message"),
        ([], [FIRST, GOOD], [LAST, BAD], "no_shared_prompt", "their first messages differ"),
        ([], [*SHARED, GOOD], [*SHARED, GOOD], "equal_answers", "equal"),
        ([FIRST], [*SHARED, GOOD], [*SHARED, GOOD], "equal_answers", "equal"),
    ],
)  # fmt: skip
def test_what_is_no_pair_is_refused(
    prompt: list[Message], chosen: list[Message], rejected: list[Message], reason: str, words: str
) -> None:
    with pytest.raises(BadRow) as caught:
        divide_conversations(prompt, chosen, rejected)
    assert (caught.value.reason, words in caught.value.detail) == (reason, True), caught.value.detail


CONVERSATIONS = {"chosen": [SYSTEM, *SHARED, GOOD], "rejected": [SYSTEM, *SHARED, BAD]}
SCORES = {"score_chosen": 9, "score_rejected": 2}


@pytest.mark.parametrize("asked", ["Teach me a card trick.", "And then?"])
@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("preference", {"prompt": "Q", **CONVERSATIONS}),
        ("ultrafeedback", {"prompt": "Q", **CONVERSATIONS, **SCORES}),
        ("chatml.ultra", {"prompt": "Q", **CONVERSATIONS}),
        ("chat_template.default", {"messages": "Q", **CONVERSATIONS}),
        (
            "openai",
            {
                "input": {"messages": [says("user", "Q")]},
                "preferred_output": CONVERSATIONS["chosen"],
                "non_preferred_output": CONVERSATIONS["rejected"],
            },
        ),
        ("ms_swift", {"messages": CONVERSATIONS["chosen"], "rejected_messages": CONVERSATIONS["rejected"]}),
        ("ms_swift", {"messages": CONVERSATIONS["chosen"], "rejected_response": CONVERSATIONS["rejected"]}),
        ("chatml.argilla_chat", CONVERSATIONS),
    ],
)
def test_every_format_that_takes_conversations_finds_the_whole_prompt(
    name: str, row: dict[str, Any], asked: str
) -> None:
    columns = {key: asked if value == "Q" else value for key, value in row.items()}
    if "input" in columns:
        columns["input"] = {"messages": [says("user", asked)]}
    (made,) = registry.load("data_formats", name).to_rows(SourceRow(columns, "f:1"))
    assert (made.prompt, made.answers) == ([SYSTEM, *SHARED], ([GOOD], [BAD]))
