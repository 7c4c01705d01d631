"""CSV and TSV files: which delimiter they have, and rows that are named by the line they begin on."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from dpo_recipes.data.readers.text_file import open_text
from dpo_recipes.data.rows import BadRow, RowIterator, SourceRow
from dpo_recipes.errors import DataError

_DELIMITERS = {",": "a comma", ";": "`;`", "\t": "a tab", "|": "`|`"}
_MAX_FIELD_CHARS = 1 << 24
"""A longer field is a quote that is never closed; without a limit it would take the rest of the file into memory."""
_SHOWN_LINES = 50
"""So many lines of a row are looked at for what is wrong with its quotes."""


def read_delimited(path: Path) -> RowIterator:
    """The rows of a file with a header. A row with another number of fields than the header is a bad row.

    Raises `DataError` D401 for a header that cannot be used, and for quotes after which rows cannot be told apart.
    """
    csv.field_size_limit(_MAX_FIELD_CHARS)
    dialect = _dialect(path)
    with open_text(path) as file:
        reader = csv.reader(file, strict=True, delimiter=dialect.delimiter, skipinitialspace=dialect.has_spaces)
        begin = 1
        try:
            names = _header(next(filter(None, reader), []), path, dialect)
            begin = reader.line_num + 1
            for fields in reader:
                where = f"{path.name}:{begin}"
                begin = reader.line_num + 1
                if len(fields) == len(names):
                    columns = dict(zip(names, fields, strict=True))
                    columns.pop("", None)  # the index that pandas writes in front, without a name
                    yield SourceRow(columns, where)
                elif fields:  # and no blank line
                    yield SourceRow({}, where, _uneven(names, fields, dialect))
        except csv.Error as error:
            raise _quote_error(path, begin, error, dialect) from error


@dataclass(frozen=True)
class _Dialect:
    delimiter: str
    has_spaces: bool
    """A space follows each delimiter, and belongs to it."""


def _dialect(path: Path) -> _Dialect:
    """The delimiter that the name promises, unless the header has none of it and some of just one other."""
    with open_text(path) as file:
        header = next((line.rstrip("\r\n") for line in file if line.strip()), "")
    usual = "\t" if path.name.removesuffix(".gz").endswith(".tsv") else ","
    found = {delimiter: _outside_quotes(header, delimiter) for delimiter in _DELIMITERS}
    others = [delimiter for delimiter, count in found.items() if count]
    delimiter = others[0] if not found[usual] and len(others) == 1 else usual
    spaced = _outside_quotes(header, f"{delimiter} ")
    return _Dialect(delimiter, delimiter != "\t" and 0 < spaced == found[delimiter])


def _outside_quotes(header: str, text: str) -> int:
    return re.sub(r'"[^"]*"', '""', header).count(text)


def _header(names: list[str], path: Path, dialect: _Dialect) -> list[str]:
    names = [name.strip() for name in names]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise DataError.of(
            "D401",
            f"{path}:1 names the column `{twice[0]}` twice",
            why=f"the header, separated by {_DELIMITERS[dialect.delimiter]}, is {', '.join(names)}",
            fix="give each column a name of its own; if the first line is a row, put a header before it",
        )
    return names


def _uneven(names: list[str], fields: list[str], dialect: _Dialect) -> BadRow:
    detail = (
        f"the row has {_fields(len(fields))} and the header {len(names)}, separated by "
        f"{_DELIMITERS[dialect.delimiter]}; a text that holds one, or a line break, must stand in quotes"
    )
    if any(field.startswith(' "') for field in fields):
        detail += "; a quote after a space opens no quoted field, so remove the spaces behind the delimiters"
    return BadRow("bad_fields", detail)


def _fields(count: int) -> str:
    return "1 field" if count == 1 else f"{count} fields"


def _quote_error(path: Path, line: int, error: csv.Error, dialect: _Dialect) -> DataError:
    """D401 for a row whose quotes make no sense; after it nobody can say where a row begins."""
    with open_text(path) as file:
        text = "".join(islice(file, line - 1, line - 1 + _SHOWN_LINES))
    name = _DELIMITERS[dialect.delimiter]
    fix = 'write a quote inside a text twice (`""`) and the text in quotes, or save the data as .jsonl'
    if '\\"' in text:
        why = 'quotes inside a text are written `\\"`; in CSV they are written twice, `""`'
        fix = (
            f"write the file again, for example with pandas: `pandas.read_csv('{path.name}', escapechar='\\\\')"
            f".to_json('{path.name.split('.')[0]}.jsonl', orient='records', lines=True)`"
        )
    elif "unexpected end" in str(error) or "field limit" in str(error):
        why = "a quote opens a text there and none closes it before the end of the file"
        fix = f"close it, or remove it; {fix}"
    else:
        why = f"a text that begins with a quote goes to the next quote, and {name} or the end of the line must follow"
    return DataError.of("D401", f"{path}:{line} begins a row with a quote that does not fit", why=why, fix=fix)
