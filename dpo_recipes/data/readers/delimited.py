"""Reads CSV and TSV files. Detects the delimiter, and names each row by the line on which it starts."""

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
"""The maximum length of a field. A quote that is never closed would otherwise read the rest of the file into memory."""
_SHOWN_LINES = 50
"""The maximum number of lines of a row that are read to explain a fault in its quotes."""


def read_delimited(path: Path) -> RowIterator:
    """The rows of a file with a header. A row that has more or fewer fields than the header is a bad row.

    Raises `DataError` D401 if the header names a column twice, or if the next row cannot be found because of a quote.
    """
    csv.field_size_limit(_MAX_FIELD_CHARS)
    dialect = _dialect(path)
    with open_text(path) as file:
        skipped = dialect.has_sep_line and bool(next(file))
        reader = csv.reader(file, strict=True, delimiter=dialect.delimiter, skipinitialspace=dialect.has_spaces)
        begin = 1
        try:
            names = _header(next(filter(None, reader), []), path, dialect)
            begin = reader.line_num + 1 + skipped
            for fields in reader:
                where = f"{path.name}:{begin}"
                begin = reader.line_num + 1 + skipped
                if len(fields) == len(names):
                    columns = dict(zip(names, fields, strict=True))
                    columns.pop("", None)  # the index that pandas writes in front of the columns, without a name
                    yield SourceRow(columns, where)
                elif fields:  # an empty list is a blank line
                    yield SourceRow({}, where, _uneven(names, fields, dialect))
        except csv.Error as error:
            raise _quote_error(path, begin, error, dialect) from error


@dataclass(frozen=True)
class _Dialect:
    delimiter: str
    has_spaces: bool
    """Whether a space follows each delimiter. It is then not part of the field."""
    has_sep_line: bool = False
    """Whether the first line is Excel's `sep=;`, which names the delimiter and is not part of the data."""


def _dialect(path: Path) -> _Dialect:
    """The delimiter that the file's suffix implies, unless the header lacks it and contains exactly one other."""
    with open_text(path) as file:
        header = next((line.rstrip("\r\n") for line in file if line.strip()), "")
    if named := re.fullmatch(r'"?sep=(.)"?', header):
        return _Dialect(named[1], has_spaces=False, has_sep_line=True)
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
            fix="give each column a unique name; if the first line is a row, add a header above it",
        )
    return names


def _uneven(names: list[str], fields: list[str], dialect: _Dialect) -> BadRow:
    detail = (
        f"the row has {_fields(len(fields))} and the header has {len(names)}, separated by "
        f"{_DELIMITERS[dialect.delimiter]}; a text that contains one, or a line break, must be in quotes"
    )
    if any(field.startswith(' "') for field in fields):
        detail += "; a quote after a space does not open a quoted field, so remove the spaces after the delimiters"
    return BadRow("bad_fields", detail)


def _fields(count: int) -> str:
    return "1 field" if count == 1 else f"{count} fields"


def _quote_error(path: Path, line: int, error: csv.Error, dialect: _Dialect) -> DataError:
    """D401 for a row with an invalid quote, after which the start of the next row is unknown."""
    with open_text(path) as file:
        text = "".join(islice(file, line - 1, line - 1 + _SHOWN_LINES))
    name = _DELIMITERS[dialect.delimiter]
    fix = 'double each quote inside a text (`""`) and put the text in quotes, or save the data as .jsonl'
    if '\\"' in text:
        why = 'quotes inside a text are escaped as `\\"`; CSV requires them doubled, `""`'
        fix = (
            f"write the file again, for example with pandas: `pandas.read_csv('{path.name}', escapechar='\\\\')"
            f".to_json('{path.name.split('.')[0]}.jsonl', orient='records', lines=True)`"
        )
    elif "unexpected end" in str(error) or "field limit" in str(error):
        why = "a quote opens a text there, and no quote closes it before the end of the file"
        fix = f"close it, or remove it; {fix}"
    else:
        why = f"a text that starts with a quote ends at the next quote, and {name} or the end of the line must follow"
    return DataError.of("D401", f"{path}:{line} starts a row with an invalid quote", why=why, fix=fix)
