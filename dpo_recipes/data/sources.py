"""Where rows come from: local files, hub datasets, addresses; filtered, and with the format's names for columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dpo_recipes.data import hub, remote
from dpo_recipes.data.local_files import file_rows, find_files
from dpo_recipes.data.rows import BadRow, RowIterator, SourceRow
from dpo_recipes.errors import DataError
from dpo_recipes.recipe.column_map import ColumnValue, parse_column
from dpo_recipes.recipe.paths import is_url
from dpo_recipes.recipe.row_filter import FilterTypeError, RowFilter, parse
from dpo_recipes.recipe.schema.data import Source


def local_files(source: Source) -> list[Path] | None:
    """The local files that hold a source's rows, an address fetched first; none for a hub dataset.

    Raises `DataError` D401 (nothing to read) and D410 (cannot be fetched).
    """
    if is_url(source.path):
        return [remote.fetch(source.path)]
    if Path(source.path).is_absolute():
        return find_files(Path(source.path), source.patterns, source.split)
    return None


def read_rows(source: Source) -> RowIterator:
    """All rows of a source as they stand there.

    Raises `DataError` D401 (cannot be read) and D410 (hub).
    """
    files = local_files(source)
    return hub.read_dataset(source) if files is None else file_rows(files)


def filtered(rows: RowIterator, expression: str) -> RowIterator:
    """The rows for which a filter holds, and those that it cannot be asked of, with their fault.

    Raises `DataError` D412 when the first row lacks a column that the filter names.
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
            yield SourceRow(row.columns, row.where, BadRow("filter_failed", f"`filter` cannot be decided: {error}"))
        first = False


class Renamer:
    """Gives rows the format's names for their columns, as `columns:` in a recipe maps them."""

    def __init__(self, columns: Mapping[str, str]) -> None:
        self._values = {ours: parse_column(theirs) for ours, theirs in columns.items()}
        # A column that already has a mapped name gives way to the one that the recipe names.
        self._replaced = {*self._values, *(name for value in self._values.values() for name in value.names)}
        self._is_first = True

    def rename(self, row: SourceRow) -> SourceRow:
        """The same row under the format's names. Raises `DataError` D402 when the first row lacks a mapped column."""
        if row.fault is not None or not self._values:
            return row
        others = {name: value for name, value in row.columns.items() if name not in self._replaced}
        try:
            mapped = {ours: value.of(row.columns) for ours, value in self._values.items()}
        except KeyError as error:
            if self._is_first:
                raise _missing_column(row, str(error.args[0])) from error
            return SourceRow(row.columns, row.where, BadRow("no_column", f"there is no column `{error.args[0]}`"))
        self._is_first = False
        return SourceRow({**others, **mapped}, row.where)


def _check_filter_columns(row_filter: RowFilter, row: SourceRow) -> None:
    for name in sorted(row_filter.columns):
        try:
            ColumnValue.column(name).of(row.columns)
        except KeyError as error:
            raise DataError.of(
                "D412",
                f"`filter` names the column `{name}`, which {row.where} has not",
                why=f"it has {', '.join(row.columns)}",
                fix="correct `filter:` in the recipe",
            ) from error


def _missing_column(row: SourceRow, name: str) -> DataError:
    return DataError.of(
        "D402",
        f"{row.where} has no column `{name}`",
        why=f"it has {', '.join(row.columns)}",
        fix="correct `columns:` in the recipe",
    )
