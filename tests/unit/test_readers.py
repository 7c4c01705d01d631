"""Tests of the readers: files are read correctly, or refused with the file, line, cause and a fix."""

from __future__ import annotations

import gzip
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from dpo_recipes.data.detect import choose_format
from dpo_recipes.data.rows import SourceRow
from dpo_recipes.data.sources import read_rows
from dpo_recipes.errors import DataError, Finding
from dpo_recipes.recipe.schema.data import Source

ROW = {"prompt": "Name a tree.", "chosen": "The oak.", "rejected": "A tree."}
ROWS = [ROW, {"prompt": "Name a river.", "chosen": "Danube.", "rejected": "Wet."}]
COLUMNS = {name: [row[name] for row in ROWS] for name in ROW}


def write(path: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read(path: Path, content: str | bytes) -> list[SourceRow]:
    return list(read_rows(Source(path=str(write(path, content)))))


def refused(path: Path, content: str | bytes) -> Finding:
    with pytest.raises(DataError) as caught:
        read(path, content)
    (finding,) = caught.value.findings
    assert finding.code == "D401"
    return finding


def columns(rows: list[SourceRow]) -> list[dict[str, Any]]:
    assert [row.fault for row in rows] == [None] * len(rows)
    return [dict(row.columns) for row in rows]


FRENCH = '{"prompt": "Où ça ?", "chosen": "Très bien – merci.", "rejected": "Là-bas, à l’école."}\n'
CHINESE = '{"prompt": "你好吗？", "chosen": "我很好，谢谢。", "rejected": "不知道。"}\n'
RUSSIAN = '{"prompt": "Как дела?", "chosen": "Хорошо, спасибо.", "rejected": "Не знаю."}\n'
KOREAN = '{"prompt": "안녕하세요", "chosen": "감사합니다. 잘 지내요.", "rejected": "모르겠어요."}\n'
JAPANESE = '{"prompt": "お元気ですか", "chosen": "はい、元気です。", "rejected": "わかりません。"}\n'
POLISH = '{"prompt": "Gdzie są łąki?", "chosen": "Tuż za wsią, żółte.", "rejected": "Nie wiem, cóż."}\n'


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.jsonl.gz"])
def test_the_first_byte_that_is_not_utf8_is_named_with_its_line(tmp_path: Path, name: str) -> None:
    lines = "prompt,chosen,rejected\n" if name == "a.csv" else json.dumps(ROW) + "\n"
    finding = refused(tmp_path / name, (lines + "\n" + FRENCH).encode("cp1252"))
    assert finding.what == f"{tmp_path / name}:3 is not UTF-8"
    assert finding.why == "the byte 0xf9 is not valid there; the text is most likely WINDOWS-1252"
    assert "iconv -f WINDOWS-1252 -t UTF-8" in (finding.fix or "")


@pytest.mark.parametrize(
    ("text", "encoding", "named"),
    [
        (FRENCH, "cp1252", "WINDOWS-1252"),
        (CHINESE, "gbk", "GB18030"),
        (CHINESE * 50, "gb18030", "GB18030"),
        (RUSSIAN, "cp1251", None),
        (RUSSIAN, "koi8-r", None),
        (KOREAN, "euc-kr", None),
        (JAPANESE, "euc-jp", None),
        (JAPANESE, "shift-jis", None),
        (POLISH, "cp1250", None),
        (CHINESE, "big5", None),
    ],
)
def test_an_encoding_is_named_only_if_it_is_certain(
    tmp_path: Path, text: str, encoding: str, named: str | None
) -> None:
    data = text.encode(encoding, "replace")
    finding = refused(tmp_path / "a.jsonl", data)
    assert (f"most likely {named}" if named else "the encoding cannot be guessed") in (finding.why or "")
    if named:
        command = (finding.fix or "").partition("`")[2].rstrip("`")
        subprocess.run(command, shell=True, check=True)
        assert (tmp_path / "a.utf8.jsonl").read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("encoding", "mark", "name"),
    [
        ("utf-16", True, "UTF-16"),
        ("utf-16-le", False, "UTF-16LE"),
        ("utf-16-be", False, "UTF-16BE"),
        ("utf-32", True, "UTF-32"),
    ],
)
@pytest.mark.parametrize("file", ["a.csv", "a.jsonl", "a.json.gz"])
def test_utf16_is_detected_by_its_mark_or_its_nuls(
    tmp_path: Path, encoding: str, mark: bool, name: str, file: str
) -> None:
    finding = refused(tmp_path / file, json.dumps(ROW).encode(encoding))
    assert f"{file}:1 is {name}, not UTF-8" in finding.what
    assert ("byte order mark" in (finding.why or "")) == mark
    command = (finding.fix or "").partition("`")[2].rstrip("`")
    subprocess.run(command, shell=True, check=True)
    first, dot, rest = file.partition(".")
    converted = (tmp_path / f"{first}.utf8{dot}{rest}").read_bytes()
    assert json.loads(gzip.decompress(converted) if file.endswith(".gz") else converted) == ROW


def test_no_encoding_is_guessed_for_a_damaged_utf8_file(tmp_path: Path) -> None:
    finding = refused(tmp_path / "a.jsonl", FRENCH.encode() * 3 + b'{"prompt": "\xf9"}\n')
    assert ":4 is not UTF-8" in finding.what
    assert "the text before it is UTF-8" in (finding.why or "")
    assert "iconv -c -f UTF-8 -t UTF-8" in (finding.fix or "")
    finding = refused(tmp_path / "b.jsonl", FRENCH.encode() + '{"prompt": "é'.encode()[:-1])
    assert "ends in the middle of a character" in (finding.why or "")


def test_a_bad_byte_late_in_a_large_file_is_found_fast(tmp_path: Path) -> None:
    line = json.dumps({"prompt": "x" * 1000}).encode() + b"\n"
    path = write(tmp_path / "a.jsonl", line * 30_000 + b"\xff\n")
    started = time.process_time()
    with pytest.raises(DataError, match=r"a\.jsonl:30001 is not UTF-8"):
        list(read_rows(Source(path=str(path))))
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.jsonl", gzip.compress(b"{}", mtime=0), "compressed with gzip"),
        ("a.csv", b"PK\x03\x04" + bytes(50), "an Excel workbook"),
        ("a.csv", b"PAR1" + bytes(50), "a Parquet file"),
        ("a.jsonl", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        ("a.parquet", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        ("a.json", "\n<!DOCTYPE html>\n<html>", "a web page"),
        ("a.parquet", "<html><body>not found", "a web page"),
    ],
)
def test_a_file_of_another_kind_is_identified(tmp_path: Path, name: str, content: Any, what: str) -> None:
    finding = refused(tmp_path / name, content)
    assert what in finding.what
    assert finding.fix


def test_a_file_that_is_not_compressed_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_text(json.dumps(ROW))
    with pytest.raises(DataError, match="is not compressed with gzip"):
        list(read_rows(Source(path=str(tmp_path / "a.jsonl.gz"))))


# CSV


def table(delimiter: str, quote: str = '"') -> str:
    return "".join(
        delimiter.join(f"{quote}{cell}{quote}" for cell in cells) + "\n" for cells in [ROW, *map(dict.values, ROWS)]
    )


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_the_delimiter_is_found_in_the_header(tmp_path: Path, delimiter: str, name: str, quote: str) -> None:
    assert columns(read(tmp_path / name, table(delimiter, quote))) == ROWS


@pytest.mark.parametrize("quote", ["", '"'])
def test_spaces_after_delimiters_are_skipped_if_the_header_has_them(tmp_path: Path, quote: str) -> None:
    assert columns(read(tmp_path / "a.csv", table(", ", quote))) == ROWS
    assert columns(read(tmp_path / "b.csv", "prompt ,chosen,rejected\n a,b, c\n")) == [
        {"prompt": " a", "chosen": "b", "rejected": " c"}
    ]


def test_rows_are_named_by_the_line_they_start_on(tmp_path: Path) -> None:
    text = 'prompt,chosen,rejected\nq,"a\n\nb","c\nd"\n\nq,x\nq,"x\ny",z,too many\nq,e,f\n'
    good, short, long, last = read(tmp_path / "a.csv", text)
    assert [row.where for row in (good, short, long, last)] == ["a.csv:2", "a.csv:7", "a.csv:8", "a.csv:10"]
    assert good.columns["chosen"] == "a\n\nb"
    assert short.fault is not None
    assert short.fault.reason == "bad_fields"
    assert short.fault.detail.startswith("the row has 2 fields and the header has 3, separated by a comma")
    assert long.fault is not None
    assert "4 fields" in long.fault.detail
    assert last.fault is None


@pytest.mark.parametrize(
    ("text", "line", "why", "fix"),
    [
        ('a,b\n1,2\n"x\ny,2\n3,4\n', 3, "no quote closes it before the end of the file", "close it"),
        ('a,b\n1,"x\ny"\n"He said \\"yes\\", ok",2\n', 4, 'escaped as `\\"`', "escapechar"),
        ('a,b\n1,2\n3,"Yes" he said\n', 3, "a comma or the end of the line must follow", '`""`'),
        ('"a,b\n1,2\n', 1, "no quote closes it", "close it"),
    ],
)
def test_an_invalid_quote_is_an_error(tmp_path: Path, text: str, line: int, why: str, fix: str) -> None:
    finding = refused(tmp_path / "a.csv", text)
    assert finding.what == f"{tmp_path / 'a.csv'}:{line} starts a row with an invalid quote"
    assert why in (finding.why or "")
    assert fix in (finding.fix or "")


def test_an_unclosed_quote_does_not_read_a_large_file_into_memory(tmp_path: Path) -> None:
    text = 'a,b\n"x,2\n' + ("y" * 999 + "\n") * 40_000  # more than the longest field
    assert ":2 starts a row" in refused(tmp_path / "a.csv", text).what


def test_a_header_that_names_a_column_twice(tmp_path: Path) -> None:
    finding = refused(tmp_path / "a.csv", "prompt,chosen,chosen\na,b,c\n")
    assert "a.csv:1 names the column `chosen` twice" in finding.what
    assert columns(read(tmp_path / "b.csv", ",chosen,\n0,b,c\n")) == [{"chosen": "b"}]


# JSON


def test_json_lines_and_one_document_are_distinguished_by_content(tmp_path: Path) -> None:
    lines, document = "".join(json.dumps(row) + "\n" for row in ROWS), json.dumps(ROWS)
    for name in ("a.json", "a.jsonl", "a.json.gz"):
        for text in (lines, "\n" + lines, document, json.dumps(ROWS, indent=1), document.replace("}, ", "},\n")):
            assert columns(read(tmp_path / name, text)) == ROWS, (name, text)
    assert columns(read(tmp_path / "one.jsonl", json.dumps(ROW))) == [ROW]
    assert columns(read(tmp_path / "wrapped.json", json.dumps({"data": ROWS}, indent=1))) == ROWS


def test_rows_of_a_printed_list_are_named_by_their_line(tmp_path: Path) -> None:
    rows = read(tmp_path / "a.json", json.dumps([*ROWS, 3], indent=2))
    assert [row.where for row in rows] == ["a.json:2", "a.json:7", "a.json:12"]
    assert rows[2].fault is not None
    assert [row.where for row in read(tmp_path / "b.json", json.dumps(ROWS))] == ["b.json[0]", "b.json[1]"]


@pytest.mark.parametrize("text", ['{"a": 1, "b": 2, "a": 3}', '{"m": [{"role": "user", "a" : 1, "a":1}]}'])
def test_a_duplicate_key_is_a_bad_row(tmp_path: Path, text: str) -> None:
    for name, content in (("a.jsonl", f'{text}\n{{"a": 1}}\n'), ("a.json", f'[{text},\n{{"a": 1}}]')):
        bad, good = read(tmp_path / name, content)
        assert bad.fault is not None
        assert (bad.fault.reason, bad.fault.detail) == ("bad_json", "one object contains the key `a` twice")
        assert bad.where == f"{name}:1"
        assert good.columns == {"a": 1}


def test_two_objects_on_a_line(tmp_path: Path) -> None:
    first, second = read(tmp_path / "a.jsonl", '{"a": 1} {"a": 2}\n{"a": 3}\n')
    assert first.fault is not None
    assert first.fault.detail == "a second value starts at column 10; each row needs its own line"
    assert second.columns == {"a": 3}


def test_a_truncated_first_line_does_not_hide_the_others(tmp_path: Path) -> None:
    bad, good = read(tmp_path / "a.jsonl", '{"prompt": "x",\n{"prompt": "y"}\n')
    assert bad.fault is not None
    assert good.columns == {"prompt": "y"}


@pytest.mark.parametrize(
    ("name", "content", "what", "fix"),
    [
        ("a.jsonl", "\n".join(json.dumps(row, indent=2) for row in ROWS), ":1 starts a JSON value over", "jq -c ."),
        ("a.json", json.dumps({"v": 1, "data": ROWS}), "(`v`, `data`), with rows in `data`", "jq -c '.[\"data\"][]'"),
        ("a.json", json.dumps({"train": ROWS, "test": ROWS}, indent=1), "with rows in `train`, `test`", "jq"),
        ("a.json", json.dumps(COLUMNS), "columns of lists (`prompt`, `chosen`", "python3 -c"),
        ("a.json", json.dumps({k: {"0": v} for k, v in ROW.items()}), "as pandas' `to_json`", "orient='records'"),
        ("a.json", json.dumps(ROW), "one object (`prompt`, `chosen`, `rejected`)", "put it into a list"),
        ("a.json", json.dumps(ROWS, indent=1)[:-30], ":9:", "correct the file"),
        ("a.json", '[{"a": 1},\n {"a": }]', ":2:8 is not valid JSON", "correct the file"),
        ("a.json", '[{"a": 1}\n {"a": 2}]', ":2:2 is not valid JSON", "correct the file"),
        ("a.json", "5", "one int", "list of objects"),
    ],
)  # fmt: skip
def test_json_that_is_not_a_list_of_rows_is_refused(
    tmp_path: Path, name: str, content: str, what: str, fix: str
) -> None:
    finding = refused(tmp_path / name, content)
    assert what in finding.what
    assert fix in (finding.fix or "")


def test_the_suggested_command_converts_columns_of_lists_to_rows(tmp_path: Path) -> None:
    finding = refused(tmp_path / "a.json", json.dumps(COLUMNS))
    subprocess.run((finding.fix or "").partition("`")[2].rstrip("`"), shell=True, check=True)
    assert columns(list(read_rows(Source(path=str(tmp_path / "a.rows.jsonl"))))) == ROWS


def test_a_source_without_a_readable_row_is_one_error(tmp_path: Path) -> None:
    rows = read(tmp_path / "a.jsonl", '{"a": 1, "a": 2}\n' * 3)
    with pytest.raises(DataError) as caught:
        choose_format(Source(path="a.jsonl"), rows)
    (finding,) = caught.value.findings
    assert finding.what == "a.jsonl:1: one object contains the key `a` twice"
    assert finding.why == "none of the first 3 rows can be used"


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"a": 1},', "a comma follows the row at column 9"),
        ("{'a': 1}", "the row is in Python syntax"),
        ("// rows", "the line is a comment"),
        (json.dumps('{"a": 1}'), "encoded twice; decode it once"),
    ],
)
def test_a_line_that_is_not_an_object_is_named(tmp_path: Path, line: str, fault: str) -> None:
    first, second = read(tmp_path / "a.jsonl", f'{{"a": 1}}\n{line}\n')
    assert first.fault is None
    assert second.fault is not None
    assert fault in second.fault.detail


def test_the_split_layout_of_pandas_is_named(tmp_path: Path) -> None:
    split = {"columns": list(ROW), "index": [0, 1, 2], "data": [list(ROW.values())] * 3}
    finding = refused(tmp_path / "a.json", json.dumps(split))
    assert "orient='split'" in finding.what
    assert "orient='records'" in (finding.fix or "")


def test_excels_line_about_the_delimiter_is_not_the_header(tmp_path: Path) -> None:
    (row,) = read(tmp_path / "a.csv", "sep=;\r\nprompt;chosen;rejected\r\nA tree, please;Oak;No\r\n")
    assert (dict(row.columns), row.where) == (
        {"prompt": "A tree, please", "chosen": "Oak", "rejected": "No"},
        "a.csv:3",
    )


def test_a_folder_is_read_without_hidden_files_and_files_about_the_data(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", json.dumps(ROW))
    write(tmp_path / "._a.jsonl", b"\0\5\x16\7")
    write(tmp_path / "dataset_infos.json", "{}")
    assert columns(list(read_rows(Source(path=str(tmp_path))))) == [ROW]


def test_a_parquet_file_with_a_column_twice_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table([["q"], ["x"], ["y"]], names=["prompt", "chosen", "chosen"]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="the column `chosen` occurs twice"):
        list(read_rows(Source(path=str(tmp_path / "a.parquet"))))


def test_a_folder_whose_data_files_are_one_level_below_is_an_error_with_their_pattern(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "train-00000.jsonl", json.dumps(ROW))
    with pytest.raises(DataError) as caught:
        read_rows(Source(path=str(tmp_path)))
    assert "`data_files: ['data/train-00000.jsonl']`" in (caught.value.findings[0].fix or "")
