"""Tests of every data format: the rows it makes, the rows it refuses, and the rows it detects."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from dpo_recipes import registry
from dpo_recipes.data.rows import BadRow, DataFormat, Row, SourceRow

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"
FORMATS: dict[str, DataFormat] = {name: registry.load("data_formats", name) for name in registry.DATA_FORMATS}

Columns = Mapping[str, Any]
USER, GOOD, BAD = (
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "assistant", "content": "What?"},
)
SYSTEM = {"role": "system", "content": "Be kind."}
MORE = {"role": "user", "content": "And now?"}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Lima"}}}],
}
RAIN = {"role": "tool", "content": "rain"}
TEXTS = {"chosen": "Hello.", "rejected": "What?"}
LISTS = {"chosen": [GOOD], "rejected": [BAD]}
TALKS = {"chosen": [USER, GOOD], "rejected": [USER, BAD]}
H, A = "\n\nHuman: ", "\n\nAssistant:"


def pair(prompt: list[Any], chosen: list[Any], rejected: list[Any], **extras: Any) -> Row:
    return Row(prompt, (chosen, rejected), "f:1", **extras)


def single(prompt: list[Any], completion: list[Any], label: bool | None = None, **extras: Any) -> Row:
    return Row(prompt, (completion,), "f:1", label, **extras)


HI = pair([USER], [GOOD], [BAD])
HI_SYSTEM = pair([SYSTEM, USER], [GOOD], [BAD])
HI_LONG = pair([USER, GOOD, MORE], [GOOD], [BAD])
HI_GOOD, HI_BAD = single([USER], [GOOD], True), single([USER], [BAD], False)
HI_ONLY, HI_ONLY_SYSTEM = single([USER], [GOOD]), single([SYSTEM, USER], [GOOD])
HI_DIALOGUE = single([USER], [GOOD, MORE, BAD])
INST = pair([{"role": "user", "content": "[INST] Hi [/INST]"}], [GOOD], [BAD], rendered=True)
HI_GOOD_SYSTEM = single([SYSTEM, USER], [GOOD], True)


def turn(speaker: str, value: str) -> dict[str, str]:
    return {"from": speaker, "value": value}


def answers(*ranked: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"answer": answer, "rank": rank, "model": "m"} for answer, rank in ranked]


# --- format, columns, the rows they become ---
GOOD_ROWS: list[tuple[str, Columns, list[Row]]] = [
    ("preference", {"prompt": "Hi", **TEXTS}, [HI]),
    ("preference", {"prompt": [USER], **LISTS}, [HI]),
    ("preference", {"prompt": None, **TALKS}, [HI]),
    ("preference", {"prompt": "Hi", **TALKS}, [HI]),
    ("preference", {"prompt": [USER], "chosen": GOOD, "rejected": "What?"}, [HI]),
    ("preference", {"prompt": "Hi", "system": "Be kind.", **TEXTS}, [HI_SYSTEM]),
    ("preference", {"prompt": "Hi", "system": "", **TALKS}, [HI]),
    ("preference", {"prompt": [SYSTEM, USER], "system": "Be harsh.", **LISTS}, [HI_SYSTEM]),
    ("preference", {"chosen": [USER, GOOD, MORE, GOOD], "rejected": [USER, GOOD, MORE, BAD]}, [HI_LONG]),
    ("preference", {"prompt": [USER, GOOD, MORE], **LISTS}, [HI_LONG]),
    (  # the turns after the first difference belong to the answers
        "preference",
        {"chosen": [USER, GOOD, MORE, GOOD], "rejected": [USER, BAD, MORE, GOOD]},
        [pair([USER], [GOOD, MORE, GOOD], [BAD, MORE, GOOD])],
    ),
    (  # as a CSV file has it
        "preference",
        {"prompt": json.dumps([USER]), "chosen": json.dumps([GOOD]), "rejected": json.dumps([BAD]), "tools": ""},
        [HI],
    ),
    (
        "preference",
        {
            "prompt": [USER, {**CALL, "content": None}, RAIN],
            **LISTS,
            "tools": [TOOL],
            "chat_template_kwargs": {"enable_thinking": False},
        },
        [pair([USER, CALL, RAIN], [GOOD], [BAD], tools=[TOOL], template_kwargs={"enable_thinking": False})],
    ),
    (  # null keys, as Parquet fills them in, and content in parts
        "preference",
        {
            "prompt": [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}],
            "chosen": [{**GOOD, "tool_calls": None, "name": None}],
            "rejected": [{**BAD, "reasoning_content": "Hm.", "tool_calls": []}],
        },
        [pair([USER], [GOOD], [{**BAD, "reasoning_content": "Hm."}])],
    ),
    ("preference", {"prompt": "Hi", "system": [SYSTEM], **LISTS}, [HI_SYSTEM]),
    ("preference", {"prompt": [{"role": "Human", "content": "Hi"}], **TEXTS}, [HI]),
    (
        "preference",
        {
            "chosen": [{"role": "System ", "content": "Be kind."}, turn("HUMAN", "Hi"), turn("Chatbot", "Hello.")],
            "rejected": [turn("system", "Be kind."), turn("user", "Hi"), turn("model", "What?")],
        },
        [HI_SYSTEM],
    ),
    (  # both kinds of keys, as Arrow fills them in
        "preference",
        {
            "chosen": [{**turn("human", "Hi"), "role": None, "content": None}, {**GOOD, "from": None, "value": None}],
            "rejected": json.dumps([turn("human", "Hi"), turn("gpt", "What?")]),
        },
        [HI],
    ),
    (
        "preference",
        {
            "prompt": [USER, turn("function_call", '{"name": "weather", "arguments": {"city": "Lima"}}'), RAIN],
            **LISTS,
        },
        [pair([USER, CALL, RAIN], [GOOD], [BAD])],
    ),
    (  # LLaMA-Factory's version 1
        "preference",
        {
            "chosen": [
                {"role": "user", "content": [{"type": "text", "value": "Hi"}], "loss_weight": 0.0},
                {
                    "role": "assistant",
                    "content": [{"type": "reasoning", "value": "Hm."}, {"type": "text", "value": "Hello."}],
                },
            ],
            "rejected": [
                {"role": "user", "content": [{"type": "text", "value": "Hi", "text": None}]},
                {
                    "role": "assistant",
                    "content": [{"type": "tool_call", "value": '{"name": "weather", "arguments": {"city": "Lima"}}'}],
                },
            ],
        },
        [pair([USER], [{**GOOD, "reasoning_content": "Hm."}], [CALL])],
    ),
    ("unpaired", {"prompt": "Hi", "completion": "Hello.", "label": True}, [HI_GOOD]),
    ("unpaired", {"prompt": [USER], "completion": [BAD], "label": 0}, [HI_BAD]),
    ("unpaired", {"prompt": "Hi", "completion": [USER, GOOD], "label": "True", "system": "Be kind."}, [HI_GOOD_SYSTEM]),
    ("unpaired", {"prompt": json.dumps([USER]), "completion": json.dumps([BAD]), "label": "-1"}, [HI_BAD]),
    (
        "unpaired",
        {"prompt": [USER], "completion": [CALL, RAIN, GOOD], "label": 1, "tools": json.dumps([TOOL])},
        [single([USER], [CALL, RAIN, GOOD], True, tools=[TOOL])],
    ),
    ("ultrafeedback", {"prompt": "Hi", **TALKS, "score_chosen": 8.5, "score_rejected": 4}, [HI]),
    ("ultrafeedback", {**TALKS, "score_chosen": 1, "score_rejected": -1, "messages": [USER, GOOD]}, [HI]),
    ("ultrafeedback", {"prompt": "Hi", **TEXTS, "score_chosen": "7.5", "score_rejected": "7"}, [HI]),
    (
        "helpsteer2",
        {"prompt": "Hi", "response_1": "Hello.", "response_2": "What?", "preference_strength": -1},
        [HI],
    ),
    (
        "helpsteer2",
        {"prompt": "Hi", "response_1": "What?", "response_2": "Hello.", "preference_strength": "3"},
        [HI],
    ),
    (
        "helpsteer2",
        {
            "prompt": "Hi\n<extra_id_1>Assistant\nHello.\n<extra_id_1>User\nAnd now?",
            "response_1": "What?",
            "response_2": "Hello.",
            "preference_strength": 2.0,
        },
        [HI_LONG],
    ),
    (
        "helpsteer3",
        {"context": [USER], "response1": "Hello.", "response2": "What?", "overall_preference": -3, "domain": "code"},
        [HI],
    ),
    (
        "helpsteer3",
        {"context": [USER, GOOD, MORE], "response1": "What?", "response2": "Hello.", "overall_preference": 1},
        [HI_LONG],
    ),
    (
        "helpsteer3",
        {"context": json.dumps([USER]), "response1": "Hello.", "response2": "What?", "overall_preference": "-1"},
        [HI],
    ),
    ("ranked", {"prompt": f"{H}Hi{A} ", "answers": answers(("What?", 2), ("Hello.", 1))}, [HI]),
    (
        "ranked",
        {"prompt": "Hi", "answers": answers(("Go.", 3), ("Hello.", 1.0), ("What?", 2), ("Hey.", 1), ("Hello.", 4))},
        [HI, pair([USER], [GOOD], [{"role": "assistant", "content": "Go."}])],
    ),
    (
        "ranked",
        {"prompt": [USER], "answers": json.dumps(answers(("Hello.", 1), ("What?", 7))), "system": "Be kind."},
        [HI_SYSTEM],
    ),
    ("hh_rlhf", {"chosen": f"{H}Hi{A} Hello.", "rejected": f"{H}Hi{A} What?"}, [HI]),
    (
        "hh_rlhf",
        {
            "chosen": f"{H}Hi{A} Hello.{H}And now?{A} Hello.",
            "rejected": f"{H}Hi{A} Hello.{H}And now?{A} What?",
            "prompt": None,
        },
        [HI_LONG],
    ),
    ("hh_rlhf", {"chosen": "Human: Hi\n\nAssistant: Hello.", "rejected": "Human: Hi\n\nAssistant: What?"}, [HI]),
    ("hh_rlhf", {"chosen": "Human: Hi\nAssistant: Hello.", "rejected": "Human:Hi\nAssistant : What?"}, [HI]),
    (
        "hh_rlhf",
        {
            "prompt": "Hi",
            "chosen": "\r\n\r\nHuman: Hi\r\n\r\nAssistant: Hello.\r\n",
            "rejected": " \n\n  Human: Hi \n \n\n Assistant:What?",
        },
        [HI],
    ),
    (
        "hh_rlhf",
        {"chosen": f"{H}Hi{A} Hello.{H}And now?{A} Hello.", "rejected": f"{H}Hi{A} What?"},
        [pair([USER], [GOOD, MORE, GOOD], [BAD])],
    ),
    ("dahoas", {"prompt": f"{H}Hi{A}", "response": " Hello.", "chosen": " Hello.", "rejected": " What?\n"}, [HI]),
    ("dahoas", {"prompt": f"{H}Hi{A} Hello.{H}And now?{A}", **TEXTS}, [HI_LONG]),
    ("dahoas", {"prompt": f"{H}Hi{A} ", **TEXTS}, [HI]),
    ("dahoas", {"prompt": "Human: Hi\n\nAssistant:", **TEXTS}, [HI]),
    ("dahoas", {"prompt": " \r\n\r\n Human : Hi \r\n \r\nAssistant: ", **TEXTS}, [HI]),
    ("dahoas", {"prompt": f"{H}Hi", "chosen": f"{A} Hello.", "rejected": " What?", "score_chosen": 2}, [HI]),
    ("dahoas", {"prompt": "Human: Hi\nAssistant: Hello.\nHuman: And now?\nAssistant:", **TEXTS}, [HI_LONG]),
    (  # an answer that is followed by more turns
        "dahoas",
        {"prompt": f"{H}Hi{A}", "chosen": " Hello.", "rejected": f" What?{H}And now?{A} Hello."},
        [pair([USER], [GOOD], [BAD, MORE, GOOD])],
    ),
    (  # if turns follow blank lines, a line that starts with a name is not a turn
        "dahoas",
        {"prompt": f"{H}Hi{A}", "chosen": " Hello.", "rejected": " What?\nHuman: x"},
        [pair([USER], [GOOD], [{"role": "assistant", "content": "What?\nHuman: x"}])],
    ),
    (
        "openai",
        {"input": {"messages": [USER], "tools": []}, "preferred_output": [GOOD], "non_preferred_output": [BAD]},
        [HI],
    ),
    (
        "openai",
        {"input": {"messages": [SYSTEM, USER]}, "preferred_output": [GOOD], "non_preferred_output": [BAD]},
        [HI_SYSTEM],
    ),
    (
        "openai",
        {
            "input": {"messages": [USER], "tools": [TOOL], "parallel_tool_calls": True},
            "preferred_output": [
                {
                    "role": "assistant",
                    "tool_calls": [
                        {
                            "id": "c1",
                            "type": "function",
                            "function": {"name": "weather", "arguments": '{"city": "Lima"}'},
                        },
                        {"function": {"name": "weather", "arguments": "Lima"}},
                    ],
                },
                {**RAIN, "tool_call_id": "c1"},
                GOOD,
            ],
            "non_preferred_output": [BAD],
        },
        [
            pair(
                [USER],
                [
                    {
                        "role": "assistant",
                        "content": "",
                        "tool_calls": [
                            {
                                "id": "c1",
                                "type": "function",
                                "function": {"name": "weather", "arguments": {"city": "Lima"}},
                            },
                            {"type": "function", "function": {"name": "weather", "arguments": "Lima"}},
                        ],
                    },
                    {**RAIN, "tool_call_id": "c1"},
                    GOOD,
                ],
                [BAD],
                tools=[TOOL],
            )
        ],
    ),
    ("alpaca", {"instruction": "Hi", "input": "", **TEXTS}, [HI]),
    ("alpaca", {"instruction": "Hi", "system": "Be kind.", **TEXTS}, [HI_SYSTEM]),
    ("alpaca", {"instruction": "And now?", "history": [["Hi", "Hello."]], **TEXTS}, [HI_LONG]),
    ("alpaca", {"instruction": "And now?", "history": '[["Hi", "Hello."]]', **TEXTS}, [HI_LONG]),
    (
        "alpaca",
        {"instruction": "Add.", "input": "1 + 1", **TEXTS},
        [pair([{"role": "user", "content": "Add.\n1 + 1"}], [GOOD], [BAD])],
    ),
    ("alpaca_kto", {"instruction": "Hi", "output": "Hello.", "kto_tag": True}, [HI_GOOD]),
    ("alpaca_kto", {"instruction": "Hi", "input": None, "output": "What?", "kto_tag": False}, [HI_BAD]),
    (
        "alpaca_kto",
        {"instruction": "Hi", "system": "Be kind.", "output": "Hello.", "kto_tag": "true"},
        [HI_GOOD_SYSTEM],
    ),
    (
        "sharegpt",
        {"conversations": [turn("human", "Hi")], "chosen": turn("gpt", "Hello."), "rejected": turn("gpt", "What?")},
        [HI],
    ),
    (
        "sharegpt",
        {
            "conversations": json.dumps([turn("human", "Hi"), turn("gpt", "Hello."), turn("human", "And now?")]),
            "chosen": json.dumps(turn("gpt", "Hello.")),
            "rejected": turn("gpt", "What?"),
            "system": "",
            "tools": "",
        },
        [HI_LONG],
    ),
    (
        "sharegpt",
        {
            "conversations": [
                turn("system", "Be kind."),
                turn("human", "Hi"),
                turn("function_call", '{"name": "weather", "arguments": {"city": "Lima"}}'),
                turn("observation", "rain"),
            ],
            "chosen": turn("function_call", '[{"name": "weather", "arguments": {"city": "Lima"}}]'),
            "rejected": turn("gpt", "What?"),
            "tools": '[{"name": "weather", "parameters": {"type": "object"}}]',
        },
        [pair([SYSTEM, USER, CALL, RAIN], [CALL], [BAD], tools=[TOOL])],
    ),
    ("sharegpt", {"conversations": [turn("human", "Hi")], **TEXTS}, [HI]),
    ("sharegpt", {"conversations": [turn("User", "Hi")], "chosen": [turn("bot", "Hello.")], "rejected": BAD}, [HI]),
    ("sharegpt", {"conversations": [SYSTEM, USER], "chosen": [GOOD], "rejected": "What?"}, [HI_SYSTEM]),
    (
        "sharegpt_pair",
        {"conversations": [turn("human", "Hi"), turn("chosen_gpt", "Hello."), turn("rejected_gpt", "What?")]},
        [HI],
    ),
    (
        "sharegpt_pair",
        {
            "conversations": json.dumps(
                [turn("human", "Hi"), turn("rejected_assistant", "What?"), turn("chosen_assistant", "Hello.")]
            ),
            "system": "Be kind.",
        },
        [HI_SYSTEM],
    ),
    (
        "sharegpt_pair",
        {
            "conversations": [
                turn("human", "Hi"),
                turn("chosen_gpt", "Hello."),
                turn("rejected_gpt", "Go."),
                turn("human", "And now?"),
                {"role": "chosen", "content": "Hello."},
                {"role": "rejected", "content": "What?"},
            ]
        },
        [HI_LONG],
    ),
    ("sharegpt_kto", {"conversations": [turn("human", "Hi"), turn("gpt", "Hello.")], "kto_tag": True}, [HI_GOOD]),
    (
        "sharegpt_kto",
        {"conversations": [turn("human", "Hi"), turn("gpt", "Hello.")], "kto_tag": 1, "system": "Be kind."},
        [HI_GOOD_SYSTEM],
    ),
    (
        "sharegpt_kto",
        {
            "conversations": [
                turn("human", "Hi"),
                turn("gpt", "Hello."),
                turn("human", "And now?"),
                turn("gpt", "What?"),
            ],
            "kto_tag": False,
            "tools": [TOOL],
        },
        [single([USER, GOOD, MORE], [BAD], False, tools=[TOOL])],
    ),
    ("ms_swift", {"messages": [SYSTEM, USER, GOOD], "rejected_response": "What?"}, [HI_SYSTEM]),
    ("ms_swift", {"messages": [USER, GOOD], "rejected_messages": [USER, BAD]}, [HI]),
    ("ms_swift", {"messages": [USER, GOOD], "rejected_response": [BAD]}, [HI]),
    (
        "ms_swift",
        {"messages": [USER, GOOD, MORE, GOOD], "rejected_response": ["What?", "Who?"]},
        [HI_LONG, pair([USER, GOOD, MORE], [GOOD], [{"role": "assistant", "content": "Who?"}])],
    ),
    (
        "ms_swift",
        {
            "messages": [
                USER,
                {"role": "tool_call", "content": '{"name": "weather", "arguments": {"city": "Lima"}}'},
                {"role": "tool_response", "content": "rain"},
                GOOD,
            ],
            "rejected_response": "What?",
            "tools": json.dumps([TOOL]),
        },
        [pair([USER, CALL, RAIN], [GOOD], [BAD], tools=[TOOL])],
    ),
    ("ms_swift_query", {"query": "Hi", "response": "Hello.", "rejected_response": "What?"}, [HI]),
    (
        "ms_swift_query",
        {"query": "And now?", "response": "Hello.", "rejected_response": ["What?"], "history": [["Hi", "Hello."]]},
        [HI_LONG],
    ),
    (
        "ms_swift_query",
        {"system": "Be kind.", "query": "Hi", "response": "Hello.", "rejected_response": "What?", "history": None},
        [HI_SYSTEM],
    ),
    ("chosen_messages", {"chosen_messages": [USER, GOOD], "rejected_messages": [USER, BAD]}, [HI]),
    (
        "chosen_messages",
        {"system": "Be kind.", "chosen_messages": [USER, GOOD], "rejected_messages": json.dumps([USER, BAD])},
        [HI_SYSTEM],
    ),
    (
        "chosen_messages",
        {
            "chosen_messages": [{"role": "user", "content": [{"type": "text", "value": "Hi"}]}, GOOD],
            "rejected_messages": [USER, BAD],
            "tools": [TOOL],
        },
        [pair([USER], [GOOD], [BAD], tools=[TOOL])],
    ),
    ("winner", {"prompt": "Hi", "response_a": "What?", "response_b": "Hello.", "winner": "model_b"}, [HI]),
    ("winner", {"prompt": [USER], "response_a": [GOOD], "response_b": [BAD], "winner": "[[A]]"}, [HI]),
    ("winner", {"prompt": "Hi", "response_0": "Hello.", "response_1": "What?", "winner": 0}, [HI]),
    ("winner", {"prompt": "Hi", "response_0": "Hello.", "response_1": "What?", "winner": False}, [HI]),
    ("winner", {"prompt": "Hi", "response_1": "What?", "response_2": "Hello.", "winner": "2.0"}, [HI]),
    ("winner", {"prompt": "Hi", "response_1": "Hello.", "response_2": "What?", "winner": "Response 1"}, [HI]),
    (
        "winner",
        {"prompt": "Hi", "response_a": "Hello.", "response_b": "What?", "winner": "response_a", "system": "Be kind."},
        [HI_SYSTEM],
    ),
    ("winner", {"conversation_a": [USER, BAD], "conversation_b": [USER, GOOD], "winner": "model_b"}, [HI]),
    (
        "winner",
        {"prompt": f"{H}Hi{A}", "response_a": " Hello.", "response_b": f"What?{H}And now?{A} Hello.", "winner": "A"},
        [pair([USER], [GOOD], [BAD, MORE, GOOD])],
    ),
    ("preference", {"prompt": ["Hi"], "chosen": ["Hello."], "rejected": ["What?"]}, [HI]),
    (
        "preference",
        {"prompt": "Hi", "chosen": ["Hello.", "Go."], "rejected": ["What?", "No"], "system": "Be kind."},
        [HI_SYSTEM, pair([SYSTEM, USER], [{**GOOD, "content": "Go."}], [{**BAD, "content": "No"}])],
    ),
    (
        "preference",
        {"prompt": "Hi", "chosen": "Hello.", "rejected": ["What?", "No"]},
        [HI, pair([USER], [GOOD], [{**BAD, "content": "No"}])],
    ),
    ("ms_swift_kto", {"messages": [USER, GOOD], "label": True}, [HI_GOOD]),
    ("ms_swift_kto", {"messages": [SYSTEM, USER, GOOD], "label": 1}, [HI_GOOD_SYSTEM]),
    ("ms_swift_kto", {"messages": [USER, GOOD, MORE, BAD], "label": False}, [single([USER, GOOD, MORE], [BAD], False)]),
    ("chat_template.default", {"messages": [SYSTEM, USER], "chosen": GOOD, "rejected": BAD}, [HI_SYSTEM]),
    ("chat_template.default", {"messages": "Hi", "chosen": [USER, GOOD], "rejected": [BAD]}, [HI]),
    ("chat_template.default", {"messages": [USER, GOOD, MORE], **TEXTS}, [HI_LONG]),
    ("chat_template.argilla_chat", TALKS, [HI]),
    ("chat_template.argilla_chat", {"chosen": [SYSTEM, USER, GOOD], "rejected": [SYSTEM, USER, BAD]}, [HI_SYSTEM]),
    (
        "chat_template.argilla_chat",
        {"chosen": [USER, GOOD, MORE, GOOD], "rejected": [USER, GOOD, MORE, BAD]},
        [HI_LONG],
    ),
    ("zephyr.nectar", {"prompt": f"{H}Hi{A} ", "answers": answers(("No", 7), ("What?", 2), ("Hello.", 1))}, [HI]),
    ("zephyr.nectar", {"prompt": "Hi", "answers": answers(("Hello.", 0), ("What?", 1))}, [HI]),
    (
        "zephyr.nectar",
        {
            "prompt": f"{H}Hi{A} Hello.{H}And now?{A} ",
            "answers": answers(("What?", "2"), ("Hello.", "1"), ("No", "3")),
        },
        [HI_LONG],
    ),
    (
        "implicit_prompt",
        {"chosen": "Hi, is it warm?\nHello.", "rejected": "Hi, is it warm?\nWhat?"},
        [pair([{"role": "user", "content": "Hi, is it warm?"}], [GOOD], [BAD])],
    ),
    (
        "implicit_prompt",
        {"chosen": "The sky is blue.", "rejected": "The sky is black.", "system": "Be kind."},
        [
            pair(
                [SYSTEM, {"role": "user", "content": "The sky is"}],
                [{"role": "assistant", "content": "blue."}],
                [{"role": "assistant", "content": "black."}],
            )
        ],
    ),
    (
        "implicit_prompt",
        {"prompt": None, "chosen": "Name a tree: oak", "rejected": "Name a tree: oaks"},
        [
            pair(
                [{"role": "user", "content": "Name a tree:"}],
                [{"role": "assistant", "content": "oak"}],
                [{"role": "assistant", "content": "oaks"}],
            )
        ],
    ),
    (
        "passthrough",
        {"chosen": "<s>[INST] Hi [/INST] A</s>", "rejected": "<s>[INST] Hi [/INST] B</s>"},
        [
            pair(
                [{"role": "user", "content": "<s>[INST] Hi [/INST]"}],
                [{"role": "assistant", "content": " A</s>"}],
                [{"role": "assistant", "content": " B</s>"}],
                rendered=True,
            )
        ],
    ),
    ("passthrough", {"prompt": "Hi", **TEXTS}, [pair([USER], [GOOD], [BAD], rendered=True)]),
    (
        "passthrough",
        {"prompt": "<s>Q ", "chosen": " A</s>\n", "rejected": "B"},
        [
            pair(
                [{"role": "user", "content": "<s>Q "}],
                [{"role": "assistant", "content": " A</s>\n"}],
                [{"role": "assistant", "content": "B"}],
                rendered=True,
            )
        ],
    ),
    ("passthrough", {"prompt": "[INST] Hi [/INST]", **TEXTS, "system": "unread"}, [INST]),  # not decoded or stripped
]
# The same rows for both templates.
for template in ("chatml", "llama3"):
    for first in ("default", "argilla"):
        GOOD_ROWS += [
            (
                f"{template}.{first}",
                {"instruction": "Hi", "chosen_response": "Hello.", "rejected_response": "What?"},
                [HI],
            ),
            (f"{template}.{first}", {"system": "Be kind.", "question": "Hi", **TEXTS}, [HI_SYSTEM]),
            (f"{template}.{first}", {"prompt": "Hi", "input": "unread", "system": None, **TEXTS}, [HI]),
        ]
    for name, asked in (("icr", "input"), ("intel", "question"), ("prompt_pairs", "prompt")):
        GOOD_ROWS += [
            (f"{template}.{name}", {asked: "Hi", **TEXTS}, [HI]),
            (f"{template}.{name}", {asked: "Hi", "system": "Be kind.", **TEXTS}, [HI_SYSTEM]),
            (f"{template}.{name}", {asked: "Hi", "system": " ", "rank": 1, **TEXTS}, [HI]),
        ]
    GOOD_ROWS += [
        (f"{template}.argilla_chat", TALKS, [HI]),
        (f"{template}.argilla_chat", {name: json.dumps(talk) for name, talk in TALKS.items()}, [HI]),
        (
            f"{template}.argilla_chat",
            {"chosen": [USER, GOOD, MORE, GOOD], "rejected": [USER, GOOD, MORE, BAD]},
            [HI_LONG],
        ),
        (f"{template}.ultra", {"prompt": "Hi", **TALKS}, [HI]),
        (
            f"{template}.ultra",
            {"prompt": "Hi\n", "system": "Be kind.", **TALKS},
            [HI_SYSTEM],
        ),
        (f"{template}.ultra", {"prompt": "Hi", "system": "Be kind.", **TALKS}, [HI_SYSTEM]),
        (f"kto.{template}.argilla_chat", {"completion": [USER, GOOD], "label": True}, [HI_GOOD]),
        (f"kto.{template}.argilla_chat", {"completion": [SYSTEM, USER, GOOD], "label": 1}, [HI_GOOD_SYSTEM]),
        (
            f"kto.{template}.argilla_chat",
            {"completion": [USER, GOOD, MORE, BAD], "label": False},
            [single([USER, GOOD, MORE], [BAD], False)],
        ),
    ]
    for name, asked in (
        ("argilla", "instruction"),
        ("intel", "question"),
        ("prompt_pairs", "prompt"),
        ("ultra", "prompt"),
    ):
        GOOD_ROWS += [
            (f"kto.{template}.{name}", {asked: "Hi", "completion": "Hello.", "label": True}, [HI_GOOD]),
            (f"kto.{template}.{name}", {asked: "Hi", "completion": "What?", "label": "0"}, [HI_BAD]),
            (
                f"kto.{template}.{name}",
                {asked: "Hi", "completion": "Hello.", "label": True, "system": "Be kind."},
                [HI_GOOD_SYSTEM],
            ),
        ]

GOOD_ROWS += [
    ("messages", {"messages": [USER, GOOD]}, [HI_ONLY]),
    ("messages", {"messages": [USER, GOOD, MORE, BAD]}, [HI_DIALOGUE]),
    ("messages", {"messages": [SYSTEM, USER, GOOD], "prompt": "Hi", "source": "x"}, [HI_ONLY_SYSTEM]),
    ("messages", {"messages": json.dumps([USER, GOOD]), "system": "Be kind."}, [HI_ONLY_SYSTEM]),
    (  # a greeting is no answer
        "messages",
        {"messages": [GOOD, USER, BAD]},
        [single([GOOD, USER], [BAD])],
    ),
    (
        "messages",
        {"messages": [USER, {**CALL, "content": None}, RAIN, GOOD], "tools": json.dumps([TOOL])},
        [single([USER], [CALL, RAIN, GOOD], tools=[TOOL])],
    ),
    ("prompt", {"prompt": "Hi", "anything": 1}, [Row([USER], (), "f:1")]),
    ("prompt", {"prompt": json.dumps([SYSTEM, USER])}, [Row([SYSTEM, USER], (), "f:1")]),
    ("prompt", {"prompt": "Hi", "system": "Be kind."}, [Row([SYSTEM, USER], (), "f:1")]),
    ("prompt_completion", {"prompt": "Hi", "completion": "Hello."}, [HI_ONLY]),
    ("prompt_completion", {"prompt": "Hi", "completion": "Hello.", "label": None}, [HI_ONLY]),
    ("prompt_completion", {"prompt": [USER], "completion": [GOOD], "system": "Be kind."}, [HI_ONLY_SYSTEM]),
    ("prompt_completion", {"prompt": [USER], "completion": [USER, GOOD]}, [HI_ONLY]),
    (  # the earlier answer is part of the prompt
        "prompt_completion",
        {"prompt": [USER, GOOD, MORE], "completion": [BAD]},
        [single([USER, GOOD, MORE], [BAD])],
    ),
    ("alpaca_sft", {"instruction": "Hi", "output": "Hello."}, [HI_ONLY]),
    ("alpaca_sft", {"instruction": "Hi", "input": "", "output": "Hello.", "system": "Be kind."}, [HI_ONLY_SYSTEM]),
    (
        "alpaca_sft",
        {"instruction": "Say", "input": "hello", "output": "Hello.", "history": [["Hi", "Hello."]]},
        [single([USER, GOOD, {"role": "user", "content": "Say\nhello"}], [GOOD])],
    ),
    ("sharegpt_sft", {"conversations": [turn("human", "Hi"), turn("gpt", "Hello.")]}, [HI_ONLY]),
    (
        "sharegpt_sft",
        {"conversations": [turn("human", "Hi"), turn("gpt", "Hello.")], "system": "Be kind."},
        [HI_ONLY_SYSTEM],
    ),
    (
        "sharegpt_sft",
        {
            "conversations": [
                turn("human", "Hi"),
                turn("gpt", "Hello."),
                turn("human", "And now?"),
                turn("gpt", "What?"),
            ]
        },
        [HI_DIALOGUE],
    ),
]

# --- format, columns, reason, what the detail names ---
BAD_ROWS: list[tuple[str, Columns, str, str]] = [
    ("messages", {"messages": [USER, GOOD, MORE]}, "bad_role_order", "`messages` ends with a message of `user`"),
    ("messages", {"messages": [GOOD]}, "bad_role_order", "`messages` has no answer of `assistant`"),
    ("messages", {"messages": [SYSTEM, GOOD]}, "bad_role_order", "`messages` has no answer of `assistant`"),
    ("messages", {"messages": [USER, GOOD, SYSTEM, MORE, GOOD]}, "bad_role_order", "message 3"),
    ("messages", {"messages": [USER, RAIN, GOOD]}, "bad_role_order", "`tool` message follows `user`"),
    ("messages", {"messages": "Hi"}, "no_text", "`messages` is not a list of messages"),
    ("prompt", {"prompt": [USER, GOOD]}, "bad_role_order", "ends with a message"),
    ("prompt", {"prompt": " "}, "no_text", "`prompt` is empty"),
    ("prompt_completion", {"prompt": "Hi", "completion": [USER]}, "bad_role_order", "does not start with a message"),
    ("prompt_completion", {"prompt": [USER, GOOD], "completion": [GOOD]}, "bad_role_order", "ends with a message"),
    ("prompt_completion", {"prompt": "Hi", "completion": str(GOOD)}, "list_as_text", "in Python syntax"),
    ("alpaca_sft", {"instruction": "Hi", "output": " "}, "no_text", "`output`"),
    ("sharegpt_sft", {"conversations": [turn("gpt", "Hello.")]}, "bad_role_order", "`conversations` has no answer"),
    (
        "sharegpt_kto",
        {"conversations": [turn("gpt", "Hello.")], "kto_tag": True},
        "bad_role_order",
        "`conversations` has only one message",
    ),
    (
        "kto.chatml.argilla_chat",
        {"completion": [GOOD], "label": True},
        "bad_role_order",
        "`completion` has only one message",
    ),
    ("preference", {"prompt": json.dumps([USER]), **TEXTS}, "list_as_text", "`prompt` contains the JSON of a list"),
    ("passthrough", {"prompt": json.dumps([USER]), **TEXTS}, "list_as_text", "`prompt` contains the JSON of a list"),
    ("chatml.intel", {"question": "Hi", "chosen": str([GOOD]), "rejected": "b"}, "list_as_text", "in Python syntax"),
    ("alpaca", {"instruction": "Hi", "chosen": json.dumps(GOOD), "rejected": "b"}, "list_as_text", "of a message"),
    ("unpaired", {"prompt": "Hi", "completion": str(GOOD), "label": True}, "list_as_text", "in Python syntax"),
    ("kto.chatml.intel", {"question": "Hi", "completion": str([GOOD]), "label": True}, "list_as_text", "`completion`"),
    ("ms_swift", {"messages": [USER, GOOD], "rejected_response": str([BAD])}, "list_as_text", "`rejected_response`"),
    (
        "helpsteer3",
        {"context": [USER], "response1": str([GOOD]), "response2": "b", "overall_preference": 1},
        "list_as_text",
        "`response1`",
    ),
    ("ranked", {"prompt": "Hi", "answers": answers(("a", 1), (str([BAD]), 2))}, "list_as_text", "`answers[1].answer`"),
    ("preference", {"prompt": "Hi", "chosen": "", "rejected": "b"}, "no_text", "`chosen`"),
    ("preference", {"prompt": "Hi", "chosen": "a", "rejected": None}, "no_text", "`rejected`"),
    ("preference", {"prompt": "Hi", "chosen": 3, "rejected": "b"}, "no_text", "`chosen` is int"),
    ("preference", {"prompt": [], **TEXTS}, "no_text", "`prompt`"),
    ("preference", {"prompt": None, **TEXTS}, "no_text", "`prompt`"),
    ("preference", {"prompt": "a\0b", **TEXTS}, "bad_text", "`prompt`"),
    (
        "preference",
        {"prompt": "Hi", "chosen": [{**GOOD, "content": "\ud83d"}], "rejected": [BAD]},
        "bad_text",
        "chosen[0]",
    ),
    ("preference", {"prompt": "Hi", "chosen": "a", "rejected": "a"}, "equal_answers", "chosen"),
    ("preference", {"chosen": [USER, GOOD], "rejected": [USER, GOOD]}, "equal_answers", "chosen"),
    ("preference", {"chosen": [USER, GOOD], "rejected": [MORE, BAD]}, "no_shared_prompt", "chosen"),
    ("preference", {"prompt": [{"content": "Hi"}], **TEXTS}, "bad_message", "`prompt[0]` has no role"),
    (
        "preference",
        {"prompt": [{"role": "robot", "content": "Hi"}], **TEXTS},
        "bad_role",
        "`prompt[0].role` is `robot`",
    ),
    ("preference", {"prompt": [USER, {"role": "user", "content": " "}], **TEXTS}, "no_text", "`prompt[1].content`"),
    ("preference", {"prompt": [GOOD], **LISTS}, "bad_role_order", "prompt"),
    ("preference", {"prompt": [USER, SYSTEM, MORE], **LISTS}, "bad_role_order", "`system`"),
    ("preference", {"prompt": [USER, RAIN], **LISTS}, "bad_role_order", "`tool`"),
    ("preference", {"prompt": [SYSTEM], **LISTS}, "only_system", "system"),
    ("preference", {"prompt": [USER], "chosen": [USER], "rejected": [BAD]}, "bad_role_order", "`chosen`"),
    ("preference", {"prompt": [USER], "chosen": [GOOD, MORE], "rejected": [BAD]}, "bad_role_order", "`chosen`"),
    ("preference", {"prompt": "Hi", "system": 7, **TEXTS}, "no_text", "`system`"),
    ("preference", {"prompt": "Hi", "system": [USER], **TEXTS}, "bad_role_order", "`system`"),
    ("preference", {"prompt": "Hi", "system": [SYSTEM, SYSTEM], **TEXTS}, "bad_role_order", "`system`"),
    (
        "preference",
        {"prompt": [{**USER, "content": [{"type": "image_url", "value": "a.png"}]}], **TEXTS},
        "bad_message",
        "(`image_url`)",
    ),
    ("preference", {"prompt": "Hi", "tools": "weather", **TEXTS}, "bad_tools", "`tools`"),
    ("preference", {"prompt": "Hi", "tools": ["weather"], **TEXTS}, "bad_tools", "`tools`"),
    ("preference", {"prompt": "Hi", "tools": [{"name": "\ud83d"}], **TEXTS}, "bad_text", "`tools[0]['name']`"),
    (
        "preference",
        {"prompt": "Hi", "tools": [{"since": date(2024, 1, 1)}], **TEXTS},
        "bad_message",
        "tools[0]['since']",
    ),
    ("preference", {"prompt": "Hi", "chat_template_kwargs": [1], **TEXTS}, "bad_tools", "`chat_template_kwargs`"),
    (
        "preference",
        {"prompt": [USER], "chosen": [{**CALL, "tool_calls": "x"}], "rejected": "b"},
        "bad_tool_call",
        "chosen[0]",
    ),
    (
        "preference",
        {"prompt": [USER], "chosen": [{**CALL, "tool_calls": [{}]}], "rejected": "b"},
        "bad_tool_call",
        "chosen[0]",
    ),
    ("preference", {"prompt": [{**USER, "content": [{"type": "image"}]}], **TEXTS}, "bad_message", "prompt[0]"),
    ("unpaired", {"prompt": "Hi", "completion": "a", "label": "yes"}, "bad_label", "`label` is 'yes'"),
    ("unpaired", {"prompt": "Hi", "completion": "a", "label": None}, "bad_label", "`label`"),
    ("unpaired", {"prompt": "Hi", "completion": "a", "label": 0.5}, "bad_label", "`label`"),
    ("unpaired", {"prompt": "Hi", "completion": "", "label": 1}, "no_text", "`completion`"),
    ("ultrafeedback", {"prompt": "Hi", **TEXTS, "score_chosen": 5, "score_rejected": 5.0}, "tied_scores", "5"),
    ("ultrafeedback", {"prompt": "Hi", **TEXTS, "score_chosen": 4, "score_rejected": 5}, "swapped_scores", "4"),
    (
        "ultrafeedback",
        {"prompt": "Hi", **TEXTS, "score_chosen": None, "score_rejected": 5},
        "bad_number",
        "`score_chosen`",
    ),
    (
        "ultrafeedback",
        {"prompt": "Hi", **TEXTS, "score_chosen": 5, "score_rejected": "x"},
        "bad_number",
        "`score_rejected`",
    ),
    ("helpsteer2", {"prompt": "Hi", "response_1": "a", "response_2": "b", "preference_strength": 0}, "tie", "strength"),
    ("helpsteer2", {"prompt": "Hi", "response_1": "a", "response_2": "b", "preference_strength": 9}, "bad_number", "9"),
    ("helpsteer2", {"prompt": "Hi\n<extra_id_1>Bot\nx", "response_1": "a"}, "bad_role", "`Bot`"),
    ("helpsteer3", {"context": [USER], "response1": "a", "response2": "b", "overall_preference": 0}, "tie", "overall"),
    (
        "helpsteer3",
        {"context": "Hi", "response1": "a", "response2": "b", "overall_preference": 1},
        "no_text",
        "`context`",
    ),
    (
        "helpsteer3",
        {"context": [USER], "response1": "", "response2": "b", "overall_preference": 1},
        "no_text",
        "`response1`",
    ),
    ("ranked", {"prompt": "Hi", "answers": answers(("a", 1), ("b", 1))}, "tied_ranks", "`answers`"),
    ("ranked", {"prompt": "Hi", "answers": answers(("a", 1))}, "tied_ranks", "`answers`"),
    ("ranked", {"prompt": "Hi", "answers": answers(("a", 1), ("", 2))}, "no_text", "`answers[1].answer`"),
    ("ranked", {"prompt": "Hi", "answers": answers(("a", 1), ("b", True))}, "bad_number", "`answers[1].rank`"),
    ("ranked", {"prompt": f"{H}Hi{A} Hello.", "answers": answers(("a", 1), ("b", 2))}, "bad_dialogue", "`prompt`"),
    ("ranked", {"prompt": "Hi", "answers": ["a", "b"]}, "bad_message", "`answers[0]`"),
    ("hh_rlhf", {"chosen": "Hi", "rejected": f"{H}a{A} b"}, "bad_dialogue", "`chosen`"),
    ("hh_rlhf", {"chosen": f"{H}a{A} b", "rejected": f"{H}other{A} b"}, "no_shared_prompt", "rejected"),
    ("hh_rlhf", {"chosen": f"{H}a{A} b", "rejected": f"{H}a{A}"}, "no_text", "turn 2 of `rejected`"),
    ("hh_rlhf", {"chosen": f"{H}a{A} b", "rejected": f"{H}a{A} b"}, "equal_answers", "chosen"),
    ("hh_rlhf", {"chosen": f"{H}a{A} b", "rejected": None}, "no_text", "`rejected`"),
    ("dahoas", {"prompt": "Hi", **TEXTS}, "bad_dialogue", "`prompt`"),
    ("dahoas", {"prompt": f"{H}Hi{A} a", **TEXTS}, "bad_dialogue", "`prompt` ends with an Assistant turn"),
    ("dahoas", {"prompt": f"{H}Hi{A}", "chosen": f"a{H}b", "rejected": "c"}, "bad_role_order", "`chosen` ends"),
    ("dahoas", {"prompt": f"{H}Hi{A}", "chosen": f"a{H}{A} b", "rejected": "c"}, "no_text", "`chosen` has an empty"),
    ("dahoas", {"prompt": f"{H}Hi{A}", "chosen": " a", "rejected": "a "}, "equal_answers", "chosen"),
    ("dahoas", {"prompt": f"{H}Hi{A}", "chosen": " a", "rejected": " "}, "no_text", "`rejected`"),
    ("preference", {"prompt": "Hi", "chosen": ["a", "b"], "rejected": ["c"] * 3}, "uneven_answers", "2 answers"),
    ("preference", {"prompt": ["Hi", "Ho"], **TEXTS}, "bad_message", "`prompt[0]`"),
    ("implicit_prompt", {"chosen": "a", "rejected": "b"}, "no_shared_prompt", "share no beginning"),
    ("implicit_prompt", {"chosen": "A tree.", "rejected": "A tree. More."}, "no_text", "`chosen` has no text after"),
    ("implicit_prompt", {"chosen": "A tree.", "rejected": "A tree."}, "equal_answers", "equal"),
    ("winner", {"prompt": "Hi", "response_a": "a", "response_b": "b", "winner": "tie (bothbad)"}, "tie", "neither"),
    ("winner", {"prompt": "Hi", "response_0": "a", "response_1": "b", "winner": 2}, "bad_winner", "`response_0`"),
    ("winner", {"prompt": "Hi", "response_a": "a", "response_b": "b", "winner": 1}, "bad_winner", "`winner` is 1"),
    ("winner", {"prompt": "Hi", "response_a": "a", "response_b": "b", "winner": None}, "bad_winner", "empty"),
    ("winner", {"prompt": "Hi", "response_a": "a", "winner": "a"}, "no_text", "`response_a`"),
    ("winner", {"prompt": "Hi", "response_a": "", "response_b": "b", "winner": "b"}, "no_text", "`response_a`"),
    ("ms_swift_query", {"query": "", "response": "a", "rejected_response": "b"}, "no_text", "`query`"),
    ("ms_swift_query", {"query": "Hi", "response": "a", "rejected_response": []}, "no_text", "`rejected_response`"),
    ("chosen_messages", {"chosen_messages": "a", "rejected_messages": "b"}, "no_text", "`chosen_messages`"),
    ("openai", {"input": "Hi", "preferred_output": [GOOD], "non_preferred_output": [BAD]}, "bad_message", "`input`"),
    ("openai", {"input": {}, "preferred_output": [GOOD], "non_preferred_output": [BAD]}, "no_text", "`input.messages`"),
    ("openai", {"input": {"messages": [USER]}, "preferred_output": "a"}, "no_text", "`preferred_output`"),
    (
        "openai",
        {"input": {"messages": [USER], "tools": 1}, "preferred_output": [GOOD], "non_preferred_output": [BAD]},
        "bad_tools",
        "`input.tools`",
    ),
    ("alpaca", {"instruction": "", "input": None, **TEXTS}, "no_text", "`instruction`"),
    ("alpaca", {"instruction": "Hi", "chosen": ["a"], "rejected": "b"}, "no_text", "`chosen`"),
    ("alpaca", {"instruction": "Hi", "history": [["a"]], **TEXTS}, "bad_message", "`history[0]`"),
    ("alpaca", {"instruction": "Hi", "history": "a, b", **TEXTS}, "bad_message", "`history`"),
    ("alpaca_kto", {"instruction": "Hi", "output": "a", "kto_tag": None}, "bad_label", "`kto_tag`"),
    ("alpaca_kto", {"instruction": "Hi", "output": None, "kto_tag": True}, "no_text", "`output`"),
    ("sharegpt", {"conversations": [], **TEXTS}, "no_text", "`conversations`"),
    ("sharegpt", {"conversations": [turn("robot", "Hi")], **TEXTS}, "bad_role", "`conversations[0].from` is `robot`"),
    ("sharegpt", {"conversations": [turn("human", "")], **TEXTS}, "no_text", "`conversations[0].value`"),
    ("sharegpt", {"conversations": [turn("human", "Hi")], **TEXTS, "chosen": [5]}, "bad_message", "`chosen[0]`"),
    ("sharegpt_pair", {"conversations": [turn("human", "Hi"), turn("gpt", "a")]}, "bad_role_order", "`rejected_gpt`"),
    (
        "sharegpt_pair",
        {"conversations": [turn("human", "Hi"), turn("chosen_gpt", "a"), turn("chosen_gpt", "b")]},
        "bad_role_order",
        "`rejected_gpt`",
    ),
    (
        "sharegpt",
        {"conversations": [turn("human", "Hi")], "chosen": turn("human", "a"), "rejected": turn("gpt", "b")},
        "bad_role_order",
        "`chosen`",
    ),
    (
        "sharegpt",
        {"conversations": [turn("human", "Hi"), turn("function_call", "x")]},
        "bad_tool_call",
        "conversations[1]",
    ),
    ("sharegpt_kto", {"conversations": [turn("gpt", "a")], "kto_tag": True}, "bad_role_order", "`conversations`"),
    ("sharegpt_kto", {"conversations": [turn("human", "Hi")] * 2, "kto_tag": True}, "bad_role_order", "`completion`"),
    ("ms_swift", {"messages": [USER], "rejected_response": "b"}, "bad_role_order", "`messages`"),
    ("ms_swift", {"messages": [USER, GOOD], "rejected_response": None}, "no_text", "`rejected_response`"),
    ("ms_swift", {"messages": [USER, GOOD], "rejected_response": ["b", ""]}, "no_text", "`rejected_response[1]`"),
    ("ms_swift", {"messages": [USER, GOOD], "rejected_response": "Hello."}, "equal_answers", "chosen"),
    ("ms_swift", {"messages": [USER, GOOD], "rejected_messages": [MORE, BAD]}, "no_shared_prompt", "chosen"),
    (
        "ms_swift",
        {"messages": [{"role": "robot", "content": "x"}], "rejected_response": "b"},
        "bad_role",
        "`messages[0].role`",
    ),
    ("ms_swift_kto", {"messages": "Hi", "label": True}, "no_text", "`messages`"),
    ("ms_swift_kto", {"messages": [USER, GOOD], "label": 2}, "bad_label", "`label`"),
    ("chatml.default", {"chosen": "a", "rejected": "b"}, "no_text", "`instruction`"),
    ("chatml.argilla", {"prompt": "Hi", "chosen": "a"}, "no_text", "`rejected_response`"),
    ("llama3.argilla_chat", {"chosen": "a", "rejected": "b"}, "no_text", "`chosen`"),
    ("llama3.icr", {"question": "Hi", **TEXTS}, "no_text", "`input`"),
    ("chatml.intel", {"question": "Hi", "chosen": [GOOD], "rejected": "b"}, "no_text", "`chosen` is list"),
    ("chatml.prompt_pairs", {"prompt": "Hi", "chosen": "a", "rejected": "a"}, "equal_answers", "chosen"),
    ("chatml.ultra", {"prompt": "Other", **TALKS}, "prompt_differs", 'it is "Other", and they share "Hi"'),
    ("llama3.ultra", {"prompt": "Hi", **TEXTS}, "no_text", "`chosen`"),
    ("chat_template.default", {"messages": [USER, GOOD], **TEXTS}, "bad_role_order", "prompt"),
    ("chat_template.argilla_chat", {"chosen": [USER, GOOD], "rejected": [MORE, BAD]}, "no_shared_prompt", "chosen"),
    ("zephyr.nectar", {"prompt": "Hi", "answers": answers(("a", 1), ("a", 2))}, "tied_ranks", "`answers`"),
    ("passthrough", {"prompt": "Hi", "chosen": [GOOD], "rejected": "b"}, "no_text", "`chosen` is list"),
    ("kto.chatml.intel", {"question": None, "completion": "a", "label": True}, "no_text", "`question`"),
    ("kto.llama3.argilla_chat", {"completion": [GOOD], "label": True}, "bad_role_order", "`completion`"),
]

# --- rows of no format, and rows with the columns of two ---
FOREIGN: list[Columns] = [
    {"chosen": "a", "rejected": "b"},
    {"prompt": "Hi", "chosen": "a"},
    {"input": "Hi", "chosen": "a", "rejected": "b"},
    {"chosen": [GOOD], "rejected": [BAD]},
    {"messages": [USER], "chosen": GOOD, "rejected": BAD},
    {"completion": [USER, GOOD], "label": True},
    {"prompt": "Hi", "completion": ["a", "b"]},
    {"instruction": "Hi", "output": ["a", "b"]},
    {"instruction": "Hi", "output": "a", "label": True},
    {"text": "Hi"},
    {},
]
OVERLAPPING: list[tuple[Columns, set[str]]] = [
    ({"prompt": "Hi", **TEXTS, "instruction": "Hi"}, {"preference"}),
    ({"prompt": "Hi", "completion": "a", "label": True, "messages": [USER, GOOD]}, {"unpaired"}),
    ({"prompt": "Hi", "completion": "a", "messages": [USER, GOOD]}, {"prompt_completion"}),
    ({"instruction": "Hi", "output": "a", "messages": [USER, GOOD]}, {"messages"}),
    ({"instruction": "Hi", "output": "a", "prompt": "Hi", "completion": "a"}, {"prompt_completion"}),
    ({"conversations": [turn("human", "Hi"), turn("gpt", "a")], "messages": [USER, GOOD]}, {"messages"}),
    ({"conversations": [turn("human", "Hi"), turn("gpt", "a")], "instruction": "Hi", "output": "a"}, {"alpaca_sft"}),
    ({"prompt": "Hi", **TEXTS, "messages": [USER, GOOD]}, {"preference"}),
    ({"instruction": "Hi", **TEXTS, "output": "a"}, {"alpaca"}),
    ({"chosen": f"{H}Hi{A} a", "rejected": f"{H}Hi{A} b", "score_chosen": 2, "score_rejected": 1}, {"hh_rlhf"}),
    ({"prompt": "Hi", **TEXTS, "conversations": [turn("human", "Hi")]}, {"preference", "sharegpt"}),
    ({"prompt": "Hi", **TEXTS, "answers": answers(("a", 1))}, {"preference", "ranked"}),
    ({"prompt": f"{H}Hi{A}", **TEXTS, "score_chosen": 2, "score_rejected": 1}, {"dahoas"}),
    ({"prompt": "Hi", **TEXTS, "winner": "a"}, {"preference"}),
    ({"prompt": "Hi", "chosen": "Assistant: a", "rejected": "Assistant: b"}, {"preference"}),
    ({"prompt": "Hi", **TEXTS, "completion": "a", "label": True}, {"preference", "unpaired"}),
]


def ids(table: list[Any]) -> list[str]:
    return [f"{entry[0]}-{number}" for number, entry in enumerate(table)]


def detected(columns: Columns) -> set[str]:
    return {name for name, data_format in FORMATS.items() if data_format.detect and data_format.matches(columns)}


@pytest.mark.parametrize(("name", "columns", "expected"), GOOD_ROWS, ids=ids(GOOD_ROWS))
def test_a_row_becomes(name: str, columns: Columns, expected: list[Row]) -> None:
    before = copy.deepcopy(columns)
    assert list(FORMATS[name].to_rows(SourceRow(columns, "f:1"))) == expected
    assert columns == before


@pytest.mark.parametrize(("name", "columns", "reason", "named"), BAD_ROWS, ids=ids(BAD_ROWS))
def test_a_row_is_refused(name: str, columns: Columns, reason: str, named: str) -> None:
    with pytest.raises(BadRow) as caught:
        FORMATS[name].to_rows(SourceRow(columns, "f:1"))
    assert (caught.value.reason, named in caught.value.detail) == (reason, True), caught.value.detail


@pytest.mark.parametrize(("name", "columns", "expected"), GOOD_ROWS, ids=ids(GOOD_ROWS))
def test_exactly_one_format_matches_a_row(name: str, columns: Columns, expected: list[Row]) -> None:
    assert FORMATS[name].matches(columns)
    if FORMATS[name].detect:
        assert detected(columns) == {name}
    shapes = {"pair": (2, False), "labelled": (1, True), "completion": (1, False), "prompt": (0, False)}
    assert {(len(row.answers), row.label is not None) for row in expected} == {shapes[FORMATS[name].kind]}


@pytest.mark.parametrize("columns", FOREIGN, ids=str)
def test_no_format_matches_other_rows(columns: Columns) -> None:
    assert detected(columns) == set()


@pytest.mark.parametrize(("columns", "names"), OVERLAPPING, ids=range(len(OVERLAPPING)))
def test_a_row_with_the_columns_of_several_formats_matches_each_of_them(columns: Columns, names: set[str]) -> None:
    assert detected(columns) == names


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_converts_its_own_example(name: str) -> None:
    data_format = FORMATS[name]
    assert data_format.name == name
    assert data_format.matches(data_format.example)
    assert detected(data_format.example) == {name} or not data_format.detect
    assert set(data_format.columns) <= set(data_format.example)
    assert set(data_format.example) <= {*data_format.columns, *data_format.optional_columns}
    assert data_format.to_rows(SourceRow(data_format.example, "f:1"))
    assert sum(entry[0] == name for entry in GOOD_ROWS) >= 3
    promised = re.match(r"(?:kto\.)?(chatml|llama3|zephyr)\.", name)
    assert data_format.chat_template == (promised and promised[1])


WRONG = (
    None,
    "",
    " ",
    5,
    True,
    1e999,
    [],
    {},
    [[]],
    [None],
    ["x"],
    [{}],
    [{"role": "user"}],
    "[",
    "\0",
    "\ud800",
    -(10**400),
)


def damaged(value: Any) -> Iterator[Any]:
    """Copies of a value with one part of it, at any depth, replaced by something wrong or left out."""
    yield from WRONG
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for place, part in parts:
        for worse in damaged(part):
            copied = copy.copy(value)
            copied[place] = worse
            yield copied
        copied = copy.copy(value)
        del copied[place]
        yield copied


@pytest.mark.parametrize("name", FORMATS)
def test_a_faulty_row_raises_only_bad_row(name: str) -> None:
    data_format, reasons = FORMATS[name], set()
    for row in (columns for entry, columns, _ in GOOD_ROWS if entry == name):
        for columns in damaged({"system": "Be kind.", "tools": [TOOL], **row}):
            if not isinstance(columns, dict):
                continue
            data_format.matches(columns)
            try:
                made = [vars(row) for row in data_format.to_rows(SourceRow(columns, "f:1"))]
            except BadRow as error:
                reasons.add(error.reason)
            else:
                json.dumps(made, ensure_ascii=False).encode()
                assert "\\u0000" not in json.dumps(made)
    assert {"no_text", "bad_text", "bad_tools"} <= reasons
    assert all(re.fullmatch("[a-z_]+", reason) for reason in reasons)


def test_the_page_shows_every_format_with_its_summary_and_example() -> None:
    sections = re.findall(
        r"^#### `([^`]+)`\n\n(.+?)\n\n```json\n(.+?)\n```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert len(sections) == len(FORMATS)
    assert {name: (text, json.loads(example)) for name, text, example in sections} == {
        name: (sentence(data_format), data_format.example) for name, data_format in FORMATS.items()
    }


def sentence(data_format: DataFormat) -> str:
    """The sentence of the page about a format: its summary, and the optional columns that its example does not show."""
    summary = data_format.summary[0].upper() + data_format.summary[1:] + "."
    shown = {*data_format.example, *re.findall("`(.+?)`", summary), "tools", "chat_template_kwargs"}
    optional = ", ".join(f"`{name}`" for name in data_format.optional_columns if name not in shown)
    return summary + (f" Also read if present: {optional}." if optional else "")
