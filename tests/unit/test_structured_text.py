"""Tests of lists and objects that are stored as text, and of nulls that Arrow adds."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from dpo_recipes.data.detect import choose_format
from dpo_recipes.data.formats.roles import role_of
from dpo_recipes.data.nulls import is_nothing, without_filled_nulls
from dpo_recipes.data.prepare import load_rows
from dpo_recipes.data.rows import BadRow, SourceRow, tools_of
from dpo_recipes.data.sources import Renamer, read_rows
from dpo_recipes.data.structured_text import check_is_text
from dpo_recipes.errors import DataError
from dpo_recipes.recipe.schema.data import Data, Source


def asked(number: int) -> list[dict[str, Any]]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"Question {number}?"}]


def said(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]


def load(path: Path, rows: list[dict[str, Any]], **fields: Any) -> list[Any]:
    """The rows that the whole data stage makes from a file with these columns."""
    on_bad_row = fields.pop("on_bad_row", "error")
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return list(load_rows(Data(train=[Source(path=str(path), **fields)], on_bad_row=on_bad_row), seed=0).train)


def faults(path: Path, rows: list[dict[str, Any]], **fields: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        load(path, rows, **fields)
    return [finding.what for finding in caught.value.findings]


COLUMNS = {
    "prompt": lambda i: [asked(i), f"Question {i}?"],
    "chosen": lambda i: [said(f"good {i}"), f"good {i}"],
    "rejected": lambda i: [said(f"bad {i}"), f"bad {i}"],
}


@pytest.mark.parametrize("as_json", [("prompt",), ("chosen", "rejected"), ("chosen",), ("prompt", "rejected")])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_json_of_messages_is_read_column_by_column(tmp_path: Path, as_json: tuple[str, ...], suffix: str) -> None:
    rows = [
        {name: json.dumps(make(i)[0]) if name in as_json else make(i)[1] for name, make in COLUMNS.items()}
        for i in range(30)
    ]
    made = load(tmp_path / f"a{suffix}", rows)
    expected = asked(7) if "prompt" in as_json else asked(7)[1:]
    assert (made[7].prompt, made[7].answers) == (expected, (said("good 7"), said("bad 7")))


def test_json_conversations_beside_a_text_prompt_and_scores(tmp_path: Path) -> None:
    ask = {"role": "user", "content": "Q?"}
    row = {"prompt": "Q?", "chosen": json.dumps([ask, *said("a")]), "rejected": json.dumps([ask, *said("b")])}
    (made,) = load(tmp_path / "a.csv", [{**row, "score_chosen": "8.0", "score_rejected": "5.0"}])
    assert (made.prompt, made.answers) == ([ask], (said("a"), said("b")))


def test_json_of_messages_in_a_column_of_texts_is_a_bad_row(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": f"q{i}", "chosen": "a", "rejected": "b"} for i in range(5)]
    rows[3]["chosen"] = json.dumps(said("a"))
    (what,) = faults(tmp_path / "a.csv", rows)
    assert what.startswith("a.csv:5: `chosen` contains the JSON of a list of messages, not text")
    assert len(load(tmp_path / "b.csv", rows, on_bad_row="drop")) == 4


LISTS = [
    str(said("It's the oak.")),
    str([{"content": "x", "role": "assistant", "id": None}]),
    "[{'role': 'user', 'content': 'q'}\n {'role': 'assistant', 'content': 'a'}]",
    "array([{'content': 'q', 'role': 'user'}], dtype=object)",
    str({"role": "assistant", "content": "x"}),
    str([{"from": "gpt", "value": "x"}]),
    str({"messages": said("x")}),
]


@pytest.mark.parametrize("text", LISTS)
def test_python_syntax_is_refused_with_advice(tmp_path: Path, text: str) -> None:
    for columns in ({"chosen": text, "rejected": text + " "}, {"prompt": text}, {"rejected": text}):
        rows = [{"prompt": "q", "chosen": "a", "rejected": "b", **columns}]
        (what,) = faults(tmp_path / "a.csv", rows)
        name = next(iter(columns))
        assert f"`{name}` contains a list or object in Python syntax" in what
        assert "JSON lines or Parquet" in what


@pytest.mark.parametrize(
    ("value", "said_to_be"),
    [
        (
            {"messages": said("x"), "tools": []},
            "an object with `messages`, `tools`, not text; name the part to read",
        ),
        ({"conversations": [{"from": "human", "value": "x"}]}, "`a.conversations`"),
        ({"content": "x"}, "an object with `content`"),
        ({"role": "assistant", "content": "x"}, "the JSON of a message"),
        ({"from": "gpt", "value": "x"}, "the JSON of a message"),
        (said("x"), "the JSON of a list of messages"),
        (json.dumps(said("x")), "the JSON of a list of messages"),
    ],
)
def test_the_json_of_messages_is_not_text(value: Any, said_to_be: str) -> None:
    with pytest.raises(BadRow) as caught:
        check_is_text(json.dumps(value, indent=1), "a")
    assert caught.value.reason == "list_as_text"
    assert said_to_be in caught.value.detail


def test_a_truncated_cell_is_reported() -> None:
    with pytest.raises(BadRow, match="may be truncated"):
        check_is_text(json.dumps([*asked(1), *said("x" * 99)])[:150], "a")


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "Ada"}',
        "[1, 2, 3]",
        "['Paris', 'London']",
        "{'name': 'Ada', 'age': 36}",
        '[{"name": "Ada"}, {"name": "Bo"}]',
        '{"role": "admin", "permissions": ["read"]}',
        '{"role": "captain", "content": "none"}',
        '{"value": 3, "from": "A", "to": "B"}',
        '{"messages": 3, "unread": true}',
        '{"content": "x", "title": "y"}',
        '{"role": "admin", ',
        "[INST] Hi [/INST]",
        '"The oak."',
        "[{'id': 1}]",
    ],
)
def test_an_answer_that_is_json_or_code_may_be_trained_on(tmp_path: Path, text: str) -> None:
    (made,) = load(tmp_path / "a.jsonl", [{"prompt": "q", "chosen": text, "rejected": "No."}])
    assert made.answers[0] == said(text)
    (made,) = load(tmp_path / "b.csv", [{"question": "q", "chosen": text, "rejected": "No."}], format="chatml.intel")
    assert made.answers[0] == said(text)


def test_a_message_may_quote_messages(tmp_path: Path) -> None:
    quoted = [{"role": "user", "content": json.dumps(asked(1))}]
    (made,) = load(tmp_path / "a.jsonl", [{"prompt": quoted, "chosen": said("a"), "rejected": said("b")}])
    assert made.prompt == quoted


# columns:


def test_columns_enter_json_text_and_lists(tmp_path: Path) -> None:
    def talk(answer: str) -> str:
        return json.dumps({"messages": [*asked(1), *said(answer)], "tools": [{"name": "f"}]})

    columns = {"chosen": "good.messages", "rejected": "bad.messages", "tools": "good.tools"}
    (made,) = load(tmp_path / "a.jsonl", [{"good": talk("a"), "bad": talk("b")}], columns=columns)
    assert (made.prompt, made.answers[0], made.tools) == (asked(1), said("a"), [{"name": "f"}])
    columns = {"prompt": "{talk.0.content}: {talk.-1.content}", "chosen": "output.0", "rejected": "output.-1"}
    (made,) = load(tmp_path / "b.jsonl", [{"talk": asked(1), "output": ["a", "x", "b"]}], columns=columns)
    assert made.prompt[0]["content"] == "Be brief.: Question 1?"
    assert made.answers == (said("a"), said("b"))


@pytest.mark.parametrize(
    ("columns", "row", "what"),
    [
        ({"prompt": "{t}: {q}"}, {"t": ["x"], "q": "q"}, "`t` is a list, but `columns:` joins only texts"),
        ({"prompt": "{t}: {q}"}, {"t": {"x": 1}, "q": "q"}, "`t` is an object, but `columns:` joins only texts"),
        ({"prompt": "{t}: {q}"}, {"t": str(asked(1)), "q": "q"}, "`t` contains a list or object in Python syntax"),
        ({"prompt": "q.3"}, {"q": ["x"]}, "there is no column `q.3`"),
        ({"prompt": "q", "chosen": "good"}, {"q": "q", "good": ""}, "`good` is empty"),
        ({"prompt": "q", "chosen": "good"}, {"q": "q", "good": [{"role": "x"}]}, "`good[0].role` is `x`"),
        ({"prompt": "q", "chosen": "good.best"}, {"q": "q", "good": {"best": 5}}, "`good.best` is int, not text"),
        ({"prompt": "{a}{b}"}, {"a": "", "b": None}, "`prompt` (`a`, `b` in `columns:`) is empty"),
    ],
)
def test_a_fault_uses_the_column_names_of_the_file(
    tmp_path: Path, columns: dict[str, str], row: dict[str, Any], what: str
) -> None:
    (fault,) = faults(tmp_path / "a.jsonl", [{"chosen": "a", "rejected": "b", **row}], columns=columns)
    assert fault.startswith(f"a.jsonl:1: {what}")


def test_a_path_into_text_that_is_not_json_is_explained() -> None:
    for value, why in (("plain", "`chosen` is str"), (str({"messages": []}), "`chosen` is a text in Python syntax")):
        with pytest.raises(DataError) as caught:
            Renamer({"chosen": "chosen.messages"}).rename(SourceRow({"chosen": value}, "a:1"))
        assert caught.value.findings[0].why == why or why in (caught.value.findings[0].why or "")


# What no format reads


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        (
            {"question": "q", "better": "a", "worse": "b"},
            "`columns: {prompt: question, chosen: better, rejected: worse}`",
        ),
        ({"Prompt": "q", "Chosen": "a", "Rejected": "b"}, "{prompt: Prompt, chosen: Chosen, rejected: Rejected}"),
        ({"Name a tree.": "x", "The oak.": "y", "A tree.": "z"}, "the first line looks like a row"),
        ({"chosen": str(said("x")), "rejected": str(said("y"))}, "`chosen` contains a list or object in Python syntax"),
        (
            {side: json.dumps({"messages": said(side), "tools": []}) for side in ("chosen", "rejected")},
            "`columns: {chosen: chosen.messages, rejected: rejected.messages}`",
        ),
        ({"instruction": "q", "output": ["a", "b"]}, "{prompt: instruction, chosen: output.0, rejected: output.1}"),
        ({"question": "q", "response": "a"}, "`objective: {kind: sft}` imitates single answers"),
        ({"x": 1}, "map its names with `columns: {prompt: ..., chosen: ..., rejected: ...}`"),
    ],
)
def test_the_layout_that_columns_seem_to_have_is_named(row: dict[str, Any], hint: str) -> None:
    with pytest.raises(DataError) as caught:
        choose_format(Source(path="x"), [SourceRow(row, "x:1")])
    assert caught.value.findings[0].code == "D402"
    assert hint in (caught.value.findings[0].fix or "")


@pytest.mark.parametrize(
    ("shape", "row", "hint"),
    [
        ("completion", {"question": "q", "response": "a"}, "`columns: {prompt: question, completion: response}`"),
        ("completion", {"x": 1}, "map its names with `columns: {prompt: ..., completion: ...}`"),
        (
            "labelled",
            {"query": "q", "answer": "a", "good": True},
            "if `good` says whether the answer is good: `columns: {prompt: query, completion: answer, label: good}`",
        ),
        ("labelled", {"x": "1"}, "map its names with `columns: {prompt: ..., completion: ..., label: ...}`"),
    ],
)
def test_the_layout_is_named_in_the_columns_that_the_objective_needs(
    shape: Any, row: dict[str, Any], hint: str
) -> None:
    with pytest.raises(DataError) as caught:
        choose_format(Source(path="x"), [SourceRow(row, "x:1")], shape)
    assert caught.value.findings[0].code == "D402"
    assert hint in (caught.value.findings[0].fix or "")


# Nulls


def tool(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def call(name: str, **arguments: Any) -> list[dict[str, Any]]:
    function = {"name": name, "arguments": arguments}
    return [{"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": function}]}]


ROWS = [
    {
        "prompt": [{"role": "user", "content": "Weather?"}],
        "chosen": call("weather", city="Lima"),
        "rejected": call("search", query="Lima", top=3),
        "tools": [
            tool("weather", city={"type": "string", "enum": ["Lima", None]}, unit={"type": "string", "default": None}),
            tool("search", query={"type": "string"}, top={"type": "integer"}),
        ],
        "chat_template_kwargs": {"enable_thinking": False},
    },
    {
        "prompt": [{"role": "user", "content": "Find it."}],
        "chosen": call("search", query="rice"),
        "rejected": said("Boil it."),
        "tools": [tool("search", query={"type": "string"}, default={"type": "string"})],
        "chat_template_kwargs": {"today": "Friday"},
    },
]


def plain(rows: list[Any]) -> list[Any]:
    return [[row.prompt, row.answers, row.tools, row.template_kwargs] for row in rows]


def test_rows_from_arrow_equal_those_of_json_lines(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    expected = plain(load(tmp_path / "a.jsonl", ROWS))
    table = pa.Table.from_pylist(ROWS)
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    for name in ("a.parquet", "a.arrow"):
        source = Source(path=str(tmp_path / name))
        made = list(load_rows(Data(train=[source]), seed=0).train)
        assert plain(made) == expected, name
    assert expected[0][2][0]["function"]["parameters"]["properties"]["unit"] == {"type": "string", "default": None}


def test_rows_of_a_hub_dataset_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    from dpo_recipes.data import hub

    monkeypatch.setattr(hub, "load_split", lambda source: [{"a": 1}])
    (row,) = read_rows(Source(path="org/name", streaming=True))
    assert row.has_filled_nulls


def test_nulls_that_a_filter_or_a_mapping_asks_for_are_there(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    metas = [{"lang": "en"}, {"lang": None}]
    rows = [{"prompt": f"q{i}", "chosen": "a", "rejected": "b", "meta": meta} for i, meta in enumerate(metas)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    source = Source(
        path=str(tmp_path / "a.parquet"), filter="meta.lang == null", columns={"prompt": "{meta.lang}{prompt}"}
    )
    (made,) = load_rows(Data(train=[source]), seed=0).train
    assert made.prompt[0]["content"] == "q1"


def test_nulls_in_json_lines_are_kept(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "chat_template_kwargs": {"today": None}, "chosen": call("weather", city=None)}]
    (made,) = load(tmp_path / "a.jsonl", rows)
    assert made.template_kwargs == {"today": None}
    assert made.answers[0][0]["tool_calls"][0]["function"]["arguments"] == {"city": None}


def test_nulls_of_a_schema() -> None:
    schema = {
        "type": "object",
        "properties": {"default": None, "a": {"type": "string", "default": None, "enum": ["x", None], "items": None}},
    }
    assert without_filled_nulls(schema, is_schema=True) == {
        "type": "object",
        "properties": {"a": {"type": "string", "default": None, "enum": ["x", None]}},
    }
    assert without_filled_nulls({"default": None, "a": [None, {"b": None}]}) == {"a": [None, {}]}


@pytest.mark.parametrize("value", [None, "", " ", "null", "None", "nan", "[]", [], float("nan")])
def test_words_for_null_in_tools_and_system_mean_none(tmp_path: Path, value: Any) -> None:
    assert is_nothing(value) or value == "[]"
    assert tools_of(value, "tools") is None
    if isinstance(value, str) and value != "[]":
        row = {
            "prompt": "q",
            "chosen": "a",
            "rejected": "b",
            "system": value,
            "tools": value,
            "chat_template_kwargs": value,
        }
        (made,) = load(tmp_path / "a.csv", [row])
        assert (made.prompt[0]["role"], made.tools, made.template_kwargs) == ("user", None, {})


@pytest.mark.parametrize(
    "text",
    [
        "[OrderedDict([('role', 'assistant'), ('content', 'The oak.')])]",
        "[ChatCompletionMessage(content='The oak.', role='assistant')]",
        "AIMessage(content='The oak.')",
        "({'role': 'assistant', 'content': 'The oak.'},)",
    ],
)
def test_other_forms_of_messages_in_python_are_refused(text: str) -> None:
    with pytest.raises(BadRow, match="Python syntax"):
        check_is_text(text, "chosen")


@pytest.mark.parametrize("text", ["OrderedDict([('a', 1)])", "(a, b)", "Message(1)", "[Note] Message(content=1)"])
def test_code_that_makes_no_messages_is_text(text: str) -> None:
    check_is_text(text, "chosen")


def test_conversations_that_begin_with_a_greeting_need_no_prompt() -> None:
    talk = [{"role": "assistant", "content": "Hi!"}, {"role": "user", "content": "A tree?"}]
    sides = {
        side: [*talk, {"role": "assistant", "content": text}] for side, text in (("chosen", "Oak."), ("rejected", "A."))
    }
    data_format = choose_format(Source(path="p.jsonl"), [SourceRow(sides, "p.jsonl:1")])
    (row,) = data_format.to_rows(SourceRow(sides, "p.jsonl:1"))
    assert (row.prompt, row.answers[0][0]["content"]) == (talk, "Oak.")


def test_role_names_may_be_chinese() -> None:
    assert [role_of(name) for name in ("用户", "助手", "系统")] == ["user", "assistant", "system"]


@pytest.mark.parametrize(
    ("columns", "mapping"),
    [
        (
            {"history": "q", "human_ref_A": "x", "human_ref_B": "y", "labels": 1},
            "{prompt: history, response_a: human_ref_A, response_b: human_ref_B, winner: labels}",
        ),
        (
            {"question": "q", "answer_0": "x", "answer_1": "y", "score_0": 1.0, "score_1": -1.0},
            "{prompt: question, chosen: answer_0, rejected: answer_1}` and `filter: score_0 > score_1`",
        ),
        ({"post": "q", "answer_1": "x", "answer_2": "y"}, "{prompt: post, chosen: answer_1, rejected: answer_2}"),
        (
            {"task": "math", "trajectory": asked(1), "chosen": "x", "rejected": "y"},
            "{prompt: trajectory, chosen: chosen, rejected: rejected}",
        ),
    ],
)
def test_the_layout_of_unknown_columns_is_suggested(columns: dict[str, Any], mapping: str) -> None:
    with pytest.raises(DataError, match="D402") as caught:
        choose_format(Source(path="p.jsonl"), [SourceRow(columns, "p.jsonl:1")])
    assert f"columns: {mapping}" in (caught.value.findings[0].fix or "")


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ({"role": "assistant", "text": "x"}, "rename this key to `content`"),
        ({"speaker": "assistant", "text": "x"}, "its keys are speaker, text"),
    ],
)
def test_messages_with_other_keys_name_them(tmp_path: Path, message: dict[str, str], advice: str) -> None:
    (what,) = faults(tmp_path / "a.jsonl", [{"prompt": asked(1), "chosen": [message], "rejected": "b"}])
    assert advice in what


def test_the_winner_may_be_the_name_of_a_model(tmp_path: Path) -> None:
    row = {"prompt": "q", "response_a": "x", "response_b": "y", "model_a": "llama-2", "model_b": "gpt-4"}
    (made,) = load(tmp_path / "a.jsonl", [{**row, "winner": "gpt-4"}])
    assert [answer[0]["content"] for answer in made.answers] == ["y", "x"]
    assert "names neither" in faults(tmp_path / "b.jsonl", [{**row, "model_a": "gpt-4", "winner": "gpt-4"}])[0]


def test_an_element_of_a_list_in_python_syntax_cannot_be_named(tmp_path: Path) -> None:
    rows = [{"q": "q", "o": json.dumps(["x", "y"])}, {"q": "q", "o": "['x', 'y']"}]
    columns = {"prompt": "q", "chosen": "o.0", "rejected": "o.1"}
    (what,) = faults(tmp_path / "a.jsonl", rows, columns=columns)
    assert "`o` is a list in Python syntax" in what


INPUTS = ["nan", "None", "NA", "Na", "7"]


def test_an_input_that_is_missing_in_a_table_is_no_part_of_the_prompt(tmp_path: Path) -> None:
    rows = [
        {"instruction": f"Say {i}.", "input": text, "chosen": "x", "rejected": "y"} for i, text in enumerate(INPUTS)
    ]
    made = load(tmp_path / "a.csv", rows)
    assert [row.prompt[0]["content"] for row in made] == ["Say 0.", "Say 1.", "Say 2.", "Say 3.\nNa", "Say 4.\n7"]


def test_messages_in_python_syntax_are_called_that_where_only_messages_can_be(tmp_path: Path) -> None:
    row = {"context": str(asked(1)), "response1": "x", "response2": "y", "overall_preference": -2}
    assert "`context` contains a list or object in Python syntax" in faults(tmp_path / "a.csv", [row])[0]
