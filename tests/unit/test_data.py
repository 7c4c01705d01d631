"""Formats, sources and splitting: what comes out of a file, and what is refused."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpo_recipes import registry
from dpo_recipes.data.formats import hh_rlhf, preference
from dpo_recipes.data.prepare import choose_format, load_preferences, split_by_prompt
from dpo_recipes.data.rows import BadRow, PreferenceRow, SourceRow
from dpo_recipes.data.sources import read_rows
from dpo_recipes.errors import DataError
from dpo_recipes.recipe.schema.data import Data, EvalData, Source

Write = Callable[[str, str], Path]
USER, GOOD, BAD = (
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "assistant", "content": "What?"},
)


def _row(**columns: Any) -> SourceRow:
    return SourceRow(columns, "file:1")


@pytest.mark.parametrize(
    "columns",
    [
        {"prompt": "Hi", "chosen": "Hello.", "rejected": "What?"},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": "Hi", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
    ],
    ids=["texts", "messages", "implicit prompt", "prompt repeated in the answers"],
)
def test_every_way_to_write_a_preference_gives_the_same_row(columns: dict[str, Any]) -> None:
    assert preference.to_row(_row(**columns)) == PreferenceRow([USER], [GOOD], [BAD], "file:1")  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"prompt": "Hi", "chosen": "", "rejected": "b"}, "no_text"),
        ({"prompt": "Hi", "chosen": "a", "rejected": "a"}, "equal_answers"),
        ({"chosen": [USER, GOOD], "rejected": [USER, GOOD]}, "equal_answers"),
        ({"chosen": [GOOD], "rejected": [BAD]}, "no_shared_prompt"),
        ({"prompt": [GOOD], "chosen": [GOOD], "rejected": [BAD]}, "bad_message"),
        ({"prompt": [USER], "chosen": [USER], "rejected": [BAD]}, "bad_message"),
        ({"prompt": [{"content": "Hi"}], "chosen": "a", "rejected": "b"}, "bad_message"),
        ({"prompt": [], "chosen": "a", "rejected": "b"}, "no_text"),
    ],
)
def test_rows_that_are_no_preference(columns: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRow) as caught:
        preference.to_row(_row(**columns))
    assert caught.value.reason == reason


def test_an_hh_dialogue_of_several_turns_shares_all_but_the_last_answer() -> None:
    start = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: And now?\n\nAssistant:"
    row = hh_rlhf.to_row(_row(chosen=start + " Go on.", rejected=start + " Stop."))
    assert [message["role"] for message in row.prompt] == ["user", "assistant", "user"]
    assert row.chosen == [{"role": "assistant", "content": "Go on."}]
    assert row.rejected == [{"role": "assistant", "content": "Stop."}]


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        ("Hi", "\n\nHuman: a\n\nAssistant: b", "bad_dialogue"),
        ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: other\n\nAssistant: b", "no_shared_prompt"),
        ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a\n\nAssistant:", "no_text"),
        ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a\n\nAssistant: b", "equal_answers"),
    ],
)
def test_dialogues_that_are_no_preference(chosen: str, rejected: str, reason: str) -> None:
    with pytest.raises(BadRow) as caught:
        hh_rlhf.to_row(_row(chosen=chosen, rejected=rejected))
    assert caught.value.reason == reason


@pytest.mark.parametrize("name", registry.names("data_formats"))
def test_each_formats_own_example_is_recognised_as_it_and_as_nothing_else(name: str) -> None:
    example = registry.load("data_formats", name).example
    assert choose_format(Source(path="x"), [SourceRow(example, "x")]).name == name


def test_columns_are_renamed(write: Write) -> None:
    path = write("pairs.csv", 'Question,More_Prefered,Less_Prefered\n"Hi, you",Hello.,What?\n')
    columns = {"prompt": "Question", "chosen": "More_Prefered", "rejected": "Less_Prefered"}
    rows = list(read_rows(Source(path=str(path), columns=columns)))  # type: ignore[arg-type]
    assert rows == [SourceRow({"prompt": "Hi, you", "chosen": "Hello.", "rejected": "What?"}, "pairs.csv:2")]


def test_a_mapped_column_wins_over_one_that_already_has_the_name(write: Write) -> None:
    path = write("pairs.jsonl", '{"prompt": "theirs", "question": "mapped", "chosen": "bad", "rejected": "good"}\n')
    columns = {"prompt": "question", "chosen": "rejected", "rejected": "chosen"}
    (row,) = read_rows(Source(path=str(path), columns=columns))  # type: ignore[arg-type]
    assert row.columns == {"prompt": "mapped", "chosen": "good", "rejected": "bad"}


def test_a_column_that_is_mapped_but_missing(write: Write) -> None:
    path = write("pairs.jsonl", '{"a": 1}\n')
    with pytest.raises(DataError, match=r"pairs.jsonl:1 has no column `b`"):
        list(read_rows(Source(path=str(path), columns={"prompt": "b"})))


def test_every_kind_of_local_file_gives_the_same_rows(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"prompt": f"q{i}", "chosen": "ä\n", "rejected": "c, d"} for i in range(3)]
    jsonl = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(jsonl, encoding="utf-8")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(jsonl.encode()))
    (tmp_path / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "a.csv").write_text("prompt,chosen,rejected\n" + "".join(f'q{i},"ä\n","c, d"\n' for i in range(3)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.jsonl.gz", "a.json", "a.csv", "a.parquet"):
        assert [dict(row.columns) for row in read_rows(Source(path=str(tmp_path / name)))] == rows, name


def test_limit_takes_the_first_rows(write: Write) -> None:
    path = write("pairs.jsonl", '{"a": 1}\n{"a": 2}\n{"a": 3}\n')
    assert [row.columns["a"] for row in read_rows(Source(path=str(path), limit=2))] == [1, 2]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"a": 1}'),
        ("a.json", "[1, 2]"),
        ("a.json", "[{]"),
        ("a.csv", "a,b\n1,2,3\n"),
        ("a.csv", "a,b\n1\n"),
        ("a.parquet", "not parquet"),
        ("a.jsonl.gz", "not gzip"),
    ],
)
def test_files_that_are_not_what_they_say(write: Write, name: str, text: str) -> None:
    with pytest.raises(DataError) as caught:
        list(read_rows(Source(path=str(write(name, text)))))
    assert caught.value.findings[0].code == "D401"


def test_the_split_holds_out_whole_prompts_and_is_the_same_each_time() -> None:
    rows = [PreferenceRow([USER | {"content": f"q{i % 10}"}], [GOOD], [BAD], f"{i}") for i in range(40)]  # type: ignore[list-item]
    train, held_out = split_by_prompt(rows, 0.2, seed=1)
    assert (train, held_out) == split_by_prompt(rows, 0.2, seed=1)
    assert len(held_out) == 8
    assert not {r.prompt[0]["content"] for r in train} & {r.prompt[0]["content"] for r in held_out}
    assert held_out != split_by_prompt(rows, 0.2, seed=2)[1]


def test_a_prompt_on_both_sides_is_a_warning(write: Write) -> None:
    line = '{"prompt": "Hi", "chosen": "a", "rejected": "b"}\n'
    train, held_out = write("a.jsonl", line), write("b.jsonl", line)
    splits = load_preferences(
        Data(train=[Source(path=str(train))], eval=EvalData(sources=[Source(path=str(held_out))])), seed=1
    )
    assert [finding.code for finding in splits.warnings] == ["D490"]


def test_ambiguous_columns_are_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.DATA_FORMATS, "twin", "dpo_recipes.data.formats.preference:FORMAT")
    with pytest.raises(DataError) as caught:
        choose_format(Source(path="x"), [SourceRow(preference.FORMAT.example, "x")])
    assert caught.value.findings[0].code == "D406"
