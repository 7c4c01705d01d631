"""Reads JSON files: one object per line, or one document. The first lines determine which of the two a file is."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from dpo_recipes.data.readers.text_file import open_text
from dpo_recipes.data.rows import BadRow, RowIterator, SourceRow
from dpo_recipes.errors import DataError


class DuplicateKey(ValueError):
    """An object contains a key twice, so that its value is ambiguous."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise DuplicateKey(f"one object contains the key `{twice}` twice")
    return made


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def read_json(path: Path) -> RowIterator:
    """The rows of a `.json` or `.jsonl` file.

    Raises `DataError` D401 if the file is neither a list of objects nor one object per line.
    """
    return _read_lines(path) if _is_lines(path) else _read_document(path)


def _is_lines(path: Path) -> bool:
    """Whether each line is a separate value. For a file with a single line, its suffix decides."""
    with open_text(path) as file:
        lines = list(islice((line for line in file if line.strip()), 2))
    named_lines = path.name.removesuffix(".gz").endswith(".jsonl")
    if not lines:
        return named_lines
    try:
        value = json.loads(lines[0])
    except RecursionError:
        return named_lines
    except json.JSONDecodeError as error:
        is_cut = error.pos >= len(lines[0].rstrip())
        if is_cut and (lines[0].lstrip().startswith("[") or not _is_object(lines[1:])):
            return False
        return named_lines
    return len(lines) > 1 or (named_lines and not isinstance(value, list))


def _is_object(lines: list[str]) -> bool:
    try:
        return bool(lines) and isinstance(json.loads(lines[0]), dict)
    except (ValueError, RecursionError):
        return False


def _read_lines(path: Path) -> RowIterator:
    with open_text(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.isspace():
                yield _line_row(line, f"{path.name}:{number}")


def _line_row(line: str, where: str) -> SourceRow:
    try:
        row = _DECODER.decode(line)
    except json.JSONDecodeError as error:
        return SourceRow({}, where, BadRow("bad_json", _syntax_fault(line, error)))
    except RecursionError:
        return SourceRow({}, where, BadRow("bad_json", "the JSON is nested too deeply"))
    except DuplicateKey as error:
        return SourceRow({}, where, BadRow("bad_json", str(error)))
    return _object_row(row, where)


def _syntax_fault(line: str, error: json.JSONDecodeError) -> str:
    if error.msg == "Extra data" and line[error.pos :].strip() == ",":
        return f"a comma follows the row at column {error.colno}; only a line break separates the rows of JSON lines"
    if error.msg == "Extra data":
        return f"a second value starts at column {error.colno}; each row needs its own line"
    if line.lstrip().startswith("{'"):
        return "the row is in Python syntax, with single quotes; write it with `json.dumps`"
    if line.lstrip().startswith(("//", "#", "/*")):
        return "the line is a comment, which JSON does not have; remove it"
    return f"not valid JSON at column {error.colno}: {error.msg}"


def _object_row(row: Any, where: str) -> SourceRow:
    if isinstance(row, dict):
        return SourceRow(row, where)
    fault = f"the row is {type(row).__name__}, not an object with named columns"
    if isinstance(row, str) and row.lstrip().startswith("{"):
        fault = "the row is JSON inside a text, encoded twice; decode it once, for example with `jq -c fromjson`"
    return SourceRow({}, where, BadRow("bad_json", fault))


def _read_document(path: Path) -> RowIterator:
    with open_text(path) as file:
        text = file.read()
    start = len(text) - len(text.lstrip())
    if text[start : start + 1] == "[":
        yield from _list_rows(path, text, start + 1)
        return
    document, end = _value_at(path, text, start)
    if text[end:].strip():
        raise DataError.of(
            "D401",
            f"{_place(path, text, start)} starts a JSON value over several lines, and more values follow",
            why="objects that are printed over several lines are neither one list nor one object per line",
            fix=f"write one object per line: `jq -c . {_quoted(path)} > {_jsonl(path)}`",
        )
    rows = _only_list(document)
    if rows is None:
        raise _no_rows(path, document)
    for index, row in enumerate(rows):
        yield _object_row(row, f"{path.name}[{index}]")


def _list_rows(path: Path, text: str, at: int) -> RowIterator:
    """The elements of a list, decoded one after the other, each with the line on which it starts."""
    spread = "\n" in text.strip()
    line, counted = 1, 0
    for index, (start, value) in enumerate(_elements(path, text, at)):
        line, counted = line + text.count("\n", counted, start), start
        where = f"{path.name}:{line}" if spread else f"{path.name}[{index}]"
        if isinstance(value, DuplicateKey):
            yield SourceRow({}, where, BadRow("bad_json", str(value)))
        else:
            yield _object_row(value, where)


def _elements(path: Path, text: str, at: int) -> Iterator[tuple[int, Any]]:
    at = _skip_blank(text, at)
    while text[at : at + 1] != "]":
        value, end = _value_at(path, text, at, keep_duplicates=True)
        yield at, value
        at = _skip_blank(text, end)
        if text[at : at + 1] == ",":
            at = _skip_blank(text, at + 1)
        elif text[at : at + 1] != "]":
            raise _invalid(path, text, json.JSONDecodeError("Expecting ',' or ']'", text, at))
    rest = _skip_blank(text, at + 1)
    if rest < len(text):
        raise _invalid(path, text, json.JSONDecodeError("Extra data", text, rest))


def _value_at(path: Path, text: str, at: int, *, keep_duplicates: bool = False) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, at)
    except DuplicateKey as error:
        if keep_duplicates:
            return error, json.JSONDecoder().raw_decode(text, at)[1]
        raise DataError.of("D401", f"{_place(path, text, at)}: {error}", fix="remove one of them") from error
    except RecursionError as error:
        raise DataError.of("D401", f"the JSON of {path} is nested too deeply", fix="correct the file") from error
    except json.JSONDecodeError as error:
        raise _invalid(path, text, error) from error


def _skip_blank(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _invalid(path: Path, text: str, error: json.JSONDecodeError) -> DataError:
    cut = error.pos >= len(text.rstrip())
    return DataError.of(
        "D401",
        f"{path}:{error.lineno}:{error.colno} is not valid JSON",
        why=f"{error.msg}{'; the file ends there, so it may be incomplete' if cut else ''}",
        fix="correct the file: a .json file is one list of objects, or has one object per line",
    )


def _only_list(document: Any) -> list[Any] | None:
    if isinstance(document, dict) and len(document) == 1:
        rows = next(iter(document.values()))
        return rows if isinstance(rows, list) else None
    return None


def _no_rows(path: Path, document: Any) -> DataError:
    """D401 for a document that is not a list of rows, with its contents and a way to convert them to rows."""
    old, new = _quoted(path), _jsonl(path)
    what, fix = f"one {type(document).__name__}", "write a list of objects, or one object per line"
    if isinstance(document, Mapping):
        names = ", ".join(f"`{name}`" for name in islice(document, 8))
        tables = [name for name, value in document.items() if _is_table(value)]
        if tables:
            what = f"one object ({names}), with rows in {', '.join(f'`{name}`' for name in tables)}"
            fix = f"write one row per line: `jq -c '.[\"{tables[0]}\"][]' {old} > {new}`"
        elif {"columns", "data"} <= document.keys():
            what = f"`columns` and `data` ({names}), as pandas' `to_json(orient='split')` writes them"
            fix = f"write rows: `frame.to_json('{path.stem}.jsonl', orient='records', lines=True)`"
        elif _is_columns(document):
            what = f"columns of lists ({names})"
            script = (
                "import json; t = json.load(open(0)); [print(json.dumps(dict(zip(t, r)))) for r in zip(*t.values())]"
            )
            fix = f'write rows: `python3 -c "{script}" < {old} > {new}`'
        elif document and all(isinstance(value, Mapping) and "0" in value for value in document.values()):
            what = f"columns of numbered cells ({names}), as pandas' `to_json` writes them"
            fix = f"write rows: `frame.to_json('{path.stem}.jsonl', orient='records', lines=True)`"
        else:
            what = f"one object ({names})"
            fix = "put it into a list; or, if it is one row of many, write one row per line in a .jsonl file"
    return DataError.of(
        "D401", f"{path} is not a list of rows: it holds {what}", why="a .json file is a list of objects", fix=fix
    )


def _is_table(value: Any) -> bool:
    """Whether a value is a list of objects that are rows, not the messages of one row."""
    if not isinstance(value, list) or not value or not all(isinstance(row, Mapping) for row in value):
        return False
    return not {"role", "from"} & set(value[0])


def _is_columns(document: Mapping[str, Any]) -> bool:
    columns = list(document.values())
    if not all(isinstance(column, list) for column in columns) or len({len(column) for column in columns}) != 1:
        return False
    return not any(isinstance(cell, Mapping) for column in columns for cell in column[:1])


def _place(path: Path, text: str, at: int) -> str:
    return f"{path}:{text.count(chr(10), 0, at) + 1}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _jsonl(path: Path) -> str:
    stem = path.name.removesuffix(".gz").rpartition(".")[0]
    return shlex.quote(str(path.with_name(f"{stem}.rows.jsonl")))
