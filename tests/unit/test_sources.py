"""Tests of sources: the rows from files, filters and column maps, and what is refused."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpo_recipes import registry
from dpo_recipes.data.detect import choose_format
from dpo_recipes.data.rows import SourceRow
from dpo_recipes.data.sources import Renamer, filtered, read_rows
from dpo_recipes.errors import DataError
from dpo_recipes.recipe.column_map import ColumnMapError, parse_column
from dpo_recipes.recipe.schema.data import Source

Write = Callable[[str, str], Path]
ROWS = [{"prompt": f"q{i}", "chosen": "ä\n", "rejected": "c, d"} for i in range(3)]


def _columns(path: Path, **fields: Any) -> list[dict[str, Any]]:
    return [dict(row.columns) for row in read_rows(Source(path=str(path), **fields))]


def test_every_kind_of_local_file_gives_the_same_rows(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(ROWS)
    jsonl = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "a.jsonl").write_text(jsonl, encoding="utf-8")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(jsonl.encode()))
    (tmp_path / "a.json").write_text(json.dumps(ROWS), encoding="utf-8")
    csv = "\ufeffprompt,chosen,rejected\n" + "".join(f'q{i},"ä\n","c, d"\n' for i in range(3))
    (tmp_path / "a.csv").write_text(csv, encoding="utf-8")
    tsv = "prompt\tchosen\trejected\n" + "".join(f'q{i}\t"ä\n"\tc, d\n' for i in range(3))
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(tsv.encode()))
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.OSFile(str(tmp_path / "stream.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    with pa.OSFile(str(tmp_path / "file.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    files = list(tmp_path.iterdir())
    assert len(files) == 8
    for path in files:
        assert _columns(path) == ROWS, path.name


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "c.jsonl"):
        (tmp_path / name).write_text(json.dumps({"a": name}) + "\n")
    (tmp_path / "notes.txt").write_text("no data")
    (tmp_path / "dataset_info.json").write_text("{}")
    assert [row["a"] for row in _columns(tmp_path)] == ["a.jsonl", "b.jsonl", "c.jsonl"]
    assert [row["a"] for row in _columns(tmp_path, data_files=["c*.jsonl", "a.jsonl"])] == ["c.jsonl", "a.jsonl"]


def test_a_saved_dataset_dict_has_a_folder_for_each_split(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    parts = {name: Dataset.from_list([{"a": name}]) for name in ("train", "test")}
    DatasetDict(parts).save_to_disk(tmp_path / "saved")
    assert _columns(tmp_path / "saved", split="test") == [{"a": "test"}]


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data file"):
        _columns(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"a": 1}'),
        ("a.json", "[{]"),
        ("a.parquet", "not parquet"),
        ("a.arrow", "not arrow"),
        ("a.jsonl.gz", "not gzip"),
    ],
)
def test_files_of_another_kind_than_their_suffix(write: Write, name: str, text: str) -> None:
    with pytest.raises(DataError) as caught:
        _columns(write(name, text))
    assert caught.value.findings[0].code == "D401"


def test_a_truncated_parquet_file_and_a_truncated_gzip_are_errors(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(ROWS * 1000), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(json.dumps(ROWS[0]).encode() * 1000))
    for path in list(tmp_path.iterdir()):
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(DataError) as caught:
            _columns(path)
        assert caught.value.findings[0].code == "D401"


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        ('{"a": }', "not valid JSON at column 7"),
        ("[1, 2]", "the row is list"),
        ("[" * 100_000, "nested too deeply"),
        ("3", "the row is int"),
    ],
)
def test_a_bad_line_is_a_bad_row_and_the_others_are_read(write: Write, line: str, detail: str) -> None:
    path = write("a.jsonl", f'{{"a": 1}}\n\n{line}\n{{"a": 2}}\n')
    first, bad, last = read_rows(Source(path=str(path)))
    assert (first.columns["a"], last.columns["a"]) == (1, 2)
    assert bad.where == "a.jsonl:3"
    assert bad.fault is not None
    assert detail in bad.fault.detail


def test_a_filter_keeps_rows_and_reports_those_it_cannot_evaluate() -> None:
    rows = [SourceRow({"score": value}, f"row {value!r}") for value in (1, 5, None, "high", 7)]
    kept = list(filtered(iter(rows), "score >= 5"))
    assert [row.where for row in kept if row.fault is None] == ["row 5", "row 7"]
    assert [row.where for row in kept if row.fault is not None] == ["row 'high'"]


def test_a_filter_on_a_column_that_is_not_there() -> None:
    with pytest.raises(DataError, match="`lang`, which row 1 lacks") as caught:
        list(filtered(iter([SourceRow({"a": 1}, "row 1")]), "lang == 'en'"))
    assert caught.value.findings[0].code == "D412"


NESTED = {"instruction": "Add.", "input": None, "meta": {"text": "x"}, "meta.text": "flat", "n": 3}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("instruction", "Add."),
        ("n", 3),
        ("meta.text", "flat"),
        ("{instruction} now", "Add. now"),
        ("{instruction}\n\n{input}", "Add."),
        ("{n} of {{n}}", "3 of {n}"),
    ],
)
def test_values_of_a_column_map(text: str, value: object) -> None:
    assert parse_column(text).of(NESTED) == value


def test_a_dot_reaches_into_an_object() -> None:
    assert parse_column("meta.text").of({"meta": {"text": "deep"}}) == "deep"
    with pytest.raises(KeyError):
        parse_column("meta.other").of({"meta": {"text": "deep"}})


@pytest.mark.parametrize("text", ["", "{}", "{a", "a}", "{a!r}", "{a:>3}", "{a[0]}", "{{a}}"])
def test_invalid_column_maps(text: str) -> None:
    with pytest.raises(ColumnMapError):
        parse_column(text)


def test_mapped_columns_replace_those_with_the_same_name() -> None:
    row = SourceRow({"prompt": "theirs", "question": "mapped", "chosen": "bad", "rejected": "good", "id": 1}, "row 1")
    renamer = Renamer({"prompt": "question", "chosen": "rejected", "rejected": "chosen"})
    assert renamer.rename(row).columns == {"prompt": "mapped", "chosen": "good", "rejected": "bad", "id": 1}


def test_a_mapped_column_that_is_missing() -> None:
    renamer = Renamer({"prompt": "q"})
    with pytest.raises(DataError, match="row 1 has no column `q`"):
        renamer.rename(SourceRow({"a": 1}, "row 1"))
    renamer.rename(SourceRow({"q": "x"}, "row 1"))
    fault = renamer.rename(SourceRow({"a": 1}, "row 2")).fault
    assert fault is not None
    assert fault.detail == "there is no column `q`"


def test_ambiguous_columns_are_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.DATA_FORMATS, "twin", registry.DATA_FORMATS["preference"])
    with pytest.raises(DataError) as caught:
        choose_format(Source(path="x"), [SourceRow(ROWS[0], "x")])
    assert caught.value.findings[0].code == "D406"


def test_columns_that_are_not_a_preference_are_named() -> None:
    with pytest.raises(DataError, match=r"its columns are question \(str\), n \(int\)") as caught:
        choose_format(Source(path="x"), [SourceRow({"question": "a", "n": 1}, "x")])
    assert caught.value.findings[0].code == "D402"
    with pytest.raises(DataError, match="preference needs"):
        choose_format(Source(path="x", format="preference"), [SourceRow({"question": "a"}, "x")])
