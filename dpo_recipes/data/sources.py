"""Reads the rows of a source, from local files, hub datasets or addresses; filters them and renames their columns."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpo_recipes.data import hub, remote
from dpo_recipes.data.local_files import file_rows, find_files
from dpo_recipes.data.message import BadRow
from dpo_recipes.data.nulls import without_filled_nulls
from dpo_recipes.data.rows import RowIterator, SourceRow
from dpo_recipes.data.structured_text import PYTHON_ADVICE, check_is_text, is_python, is_text_list
from dpo_recipes.errors import DataError
from dpo_recipes.objectives.row_shapes import SUBSET
from dpo_recipes.recipe.column_map import ColumnValue, decoded, parse_column
from dpo_recipes.recipe.paths import is_url
from dpo_recipes.recipe.row_filter import FilterTypeError, RowFilter, parse
from dpo_recipes.recipe.schema.data import Source


def local_files(source: Source) -> list[Path] | None:
    """The local files of a source, downloaded first if it is an address. None if it is a hub dataset.

    Raises `DataError` D401 if there is no data file, and D410 if an address cannot be fetched or D411 if the library
    for it is missing.
    """
    if is_url(source.path):
        return [remote.fetch(source.path)]
    if Path(source.path).is_absolute():
        return find_files(Path(source.path), source.patterns, source.split)
    return None


def read_rows(source: Source) -> RowIterator:
    """All rows of a source, unchanged.

    Raises `DataError` D401 if a file cannot be read, D410 if the hub or an address fails, D411 if a library is missing.
    """
    files = local_files(source)
    return hub.read_dataset(source) if files is None else file_rows(files)


def filtered(rows: RowIterator, expression: str) -> RowIterator:
    """The rows that a filter keeps, and those for which it cannot be evaluated, with the fault `filter_failed`.

    Raises `DataError` D412 if the first row lacks a column that the filter names.
    """
    row_filter = parse(expression)
    first = True
    for row in rows:
        try:
            if row.fault is not None or row_filter.keeps(row.columns):
                yield row
        except FilterTypeError as error:
            if first:
                _check_filter_columns(row_filter, row)
            yield SourceRow(row.columns, row.where, BadRow("filter_failed", f"`filter` cannot be evaluated: {error}"))
        first = False


class Renamer:
    """Renames the columns of rows to the format's names, as mapped by `columns:` in a recipe."""

    def __init__(self, columns: Mapping[str, str]) -> None:
        self._values = {ours: parse_column(theirs) for ours, theirs in columns.items()}
        # A column of the file that already has a mapped name is replaced by the column that the recipe maps to it. The
        # format may still read a column that also names the subset.
        moved = (value.names for ours, value in self._values.items() if ours != SUBSET)
        self._replaced = {*self._values, *(name for names in moved for name in names)}
        self._is_first = True

    def rename(self, row: SourceRow) -> SourceRow:
        """The same row with the format's names, without the nulls that Arrow filled in.

        Raises `DataError` D402 if the first row lacks a mapped column.
        """
        if row.fault is not None or not (self._values or row.has_filled_nulls):
            return row
        columns = {name: value for name, value in row.columns.items() if name not in self._replaced}
        try:
            columns |= {ours: value.of(row.columns, _text_in_braces) for ours, value in self._values.items()}
        except BadRow as error:
            return SourceRow(row.columns, row.where, error)
        except KeyError as error:
            name = str(error.args[0])
            if self._is_first and not ColumnValue.column(name).has_index:
                raise _missing_column(row, name) from error
            return SourceRow(row.columns, row.where, BadRow("no_column", _no_part(row, name)))
        self._is_first = False
        if row.has_filled_nulls:
            columns = {name: without_filled_nulls(v, is_schema=name == "tools") for name, v in columns.items()}
        return SourceRow(columns, row.where)

    def in_file_names(self, error: BadRow) -> BadRow:
        """The same fault with the file's names of columns, such as `better[0].content` for `chosen[0].content`."""

        def file_name(match: re.Match[str]) -> str:
            value = self._values.get(match[1])
            if value is None:
                return match[0]
            if value.single:
                return f"`{value.single}{match[2]}`"
            return f"{match[0]} ({', '.join(f'`{name}`' for _, name in value.parts if name)} in `columns:`)"

        return BadRow(error.reason, re.sub(r"`(\w+)((?:[.\[][^`]*)?)`", file_name, error.detail))


def _text_in_braces(value: Any, name: str) -> str:
    """A value as text, to be joined with others by `columns:`. Raises `BadRow` for a list or object."""
    if isinstance(value, Mapping | list | tuple):
        kind, part = ("an object", "name") if isinstance(value, Mapping) else ("a list", "0")
        raise BadRow(
            "no_text",
            f"`{name}` is {kind}, but `columns:` joins only texts; name a part, such as `{{{name}.{part}}}`",
        )
    text = str(value)
    check_is_text(text, name)
    return text


def _check_filter_columns(row_filter: RowFilter, row: SourceRow) -> None:
    for name in sorted(row_filter.columns):
        named_value(row, name, "filter", fix="correct `filter:` in the recipe")


def named_value(row: SourceRow, name: str, key: str, *, fix: str) -> Any:
    """The value of the column that a key of the recipe names. Raises `DataError` D412 if the row lacks the column."""
    try:
        return ColumnValue.column(name).of(row.columns)
    except KeyError as error:
        raise DataError.of(
            "D412",
            f"`{key}` names the column `{name}`, which {row.where} lacks",
            why=f"it has {', '.join(row.columns)}",
            fix=fix,
        ) from error


def _no_part(row: SourceRow, name: str) -> str:
    top = row.columns.get(name.partition(".")[0])
    if isinstance(top, str) and (is_python(top) or is_text_list(top)) and isinstance(decoded(top), str):
        return f"there is no column `{name}`: `{name.partition('.')[0]}` is a list in Python syntax; {PYTHON_ADVICE}"
    return f"there is no column `{name}`"


def _missing_column(row: SourceRow, name: str) -> DataError:
    top = name.partition(".")[0]
    why, fix = f"it has {', '.join(row.columns)}", "correct `columns:` in the recipe"
    if top in row.columns and is_python(row.columns[top]):
        why, fix = f"`{top}` is a text in Python syntax, but must be JSON", PYTHON_ADVICE
    elif top in row.columns:
        value = decoded(row.columns[top])
        keys = f" with {', '.join(value)}" if isinstance(value, Mapping) else ""
        why = f"`{top}` is {type(value).__name__}{keys}"
    return DataError.of("D402", f"{row.where} has no column `{name}`", why=why, fix=fix)
