"""Reads sources: filters rows, converts them by their format and writes them to disk, with an index in memory."""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice

import numpy as np

from dpo_recipes.data.column_use import ColumnUse, ReadColumns
from dpo_recipes.data.column_warnings import column_warnings
from dpo_recipes.data.detect import SAMPLE_ROWS, choose_format
from dpo_recipes.data.report import SplitReport
from dpo_recipes.data.rows import BadRow, Row, SourceRow
from dpo_recipes.data.sources import Renamer, filtered, read_rows
from dpo_recipes.data.split import prompt_hash, top_rows
from dpo_recipes.data.store import RowWriter
from dpo_recipes.data.structured_text import message_columns, read_messages
from dpo_recipes.errors import DataError, Finding
from dpo_recipes.recipe.column_map import ColumnValue
from dpo_recipes.recipe.schema.data import Data, Select, Source

MAX_REPORTED = 10
"""The number of bad rows that one error names; the others are counted."""
_CODES = {"equal_answers": "D405", "bad_json": "D401"}
_UNDECIDED = "tie"
"""The reason of rows in which neither answer is better. They are not faulty, so they are only counted."""


@dataclass
class RowIndex:
    """Values of the spooled rows that avoid reading them again: one entry a row in each array (24 bytes a row)."""

    prompt_hashes: array = field(default_factory=lambda: array("Q"))
    row_hashes: array = field(default_factory=lambda: array("Q"))
    values: array = field(default_factory=lambda: array("d"))
    """The values of the column that `select` orders by; NaN without `select`."""
    warnings: list[Finding] = field(default_factory=list)
    """Warnings about the columns of the sources."""

    def __len__(self) -> int:
        return len(self.row_hashes)


@dataclass
class _BadRows:
    """The first bad rows of a split, and their total number."""

    count: int = 0
    first: list[Finding] = field(default_factory=list)

    def add(self, where: str, error: BadRow) -> None:
        self.count += 1
        if len(self.first) < MAX_REPORTED:
            code = _CODES.get(error.reason, "D404")
            fix = "correct or delete the row, or set `data.on_bad_row: drop`"
            self.first.append(Finding(code, f"{where}: {error.detail}", fix=fix))


def collect(
    sources: list[Source], data: Data, writer: RowWriter, index: RowIndex, report: SplitReport
) -> list[np.ndarray]:
    """Read all sources of one split into the spool, and return the indices of the selected rows of each source.

    Raises `DataError`: D401 to D413 as the sources and formats do, D403 (no rows), D404 (bad rows, unless they may be
    dropped), D409 (every row dropped).
    """
    bad = _BadRows()
    picked = [_collect_source(source, writer, index, report, bad) for source in sources]
    if bad.count and data.on_bad_row == "error" and bad.count > data.max_bad_fraction * report.rows_in:
        raise _too_many_bad_rows(bad, report.rows_in)
    report.step("read", report.rows_in)
    if report.dropped.get("filter"):
        report.step("filter", report.rows_in - report.dropped["filter"])
    undecided = report.dropped.get(_UNDECIDED, 0)
    if bad.count or undecided:
        report.step("convert", report.rows_in - report.dropped.get("filter", 0) - bad.count - undecided)
    num_picked = sum(map(len, picked))
    if report.dropped.get("select"):
        report.step("select", num_picked)
    if sources and not num_picked:
        raise DataError.of(
            "D409",
            "every row was dropped",
            why=json.dumps(report.dropped),
            fix="compare a row with `filter`, `format` and `columns` in the recipe",
        )
    return picked


def _collect_source(
    source: Source, writer: RowWriter, index: RowIndex, report: SplitReport, bad: _BadRows
) -> np.ndarray:
    start = len(index)
    renamer = Renamer(source.columns)
    rows = _named_rows(source, renamer, report)
    sample = list(islice(rows, SAMPLE_ROWS))
    if not sample:
        dropped = report.dropped.get("filter")
        raise DataError.of(
            "D403" if not dropped else "D409",
            f"{source.path} has no rows" if not dropped else f"`filter` keeps no row of {source.path}",
            why="there is nothing to train on" if not dropped else f"{dropped} rows were read: {source.filter}",
            fix="check the file, or remove the source" if not dropped else "correct the filter",
        )
    as_json = message_columns([row.columns for *_, row in sample if row.fault is None])
    data_format = choose_format(source, [read_messages(row, as_json) for *_, row in sample])
    if data_format.kind != "pair":
        raise DataError.of(
            "D413",
            f"{source.path} contains single answers with a label (format `{data_format.name}`)",
            why="the objective `dpo` learns from two answers to one prompt",
            fix="use data with a chosen and a rejected answer, or an objective for labelled answers",
        )
    use = ColumnUse(source, data_format.name)
    for value, raw, row in chain(sample, rows):
        columns = ReadColumns(read_messages(row, as_json).columns)
        try:
            if row.fault is not None:
                raise row.fault
            converted = data_format.to_rows(SourceRow(columns, row.where))
        except BadRow as error:
            if error.reason != _UNDECIDED:
                bad.add(row.where, renamer.in_file_names(error))
            report.drop(error.reason, row.where)
            continue
        use.look(raw, columns.read, converted)
        report.rows_in += len(converted) - 1  # a ranking of K answers counts as K - 1 rows
        for one in converted:
            writer.write(one)
            index.prompt_hashes.append(prompt_hash(one.prompt))
            index.row_hashes.append(_row_hash(one))
            index.values.append(value)
    report.sources.append(use.to_json())
    index.warnings += column_warnings(use, data_format)
    return _selected(source, np.arange(start, len(index)), index, report)


def _named_rows(source: Source, renamer: Renamer, report: SplitReport) -> Iterator[tuple[float, SourceRow, SourceRow]]:
    """Yield the value that `select` orders by, the unchanged row, and the row under the format's names."""
    rows: Iterator[SourceRow] = _counted(read_rows(source), report)
    if source.filter is not None:
        rows = _count_filtered(filtered(rows, source.filter), report)
    if source.limit is not None and source.select is None:
        rows = islice(rows, source.limit)
    for row in rows:
        try:
            value = _value(row, source.select)
        except BadRow as error:
            yield math.nan, row, SourceRow(row.columns, row.where, error)
            continue
        yield value, row, renamer.rename(row)


def _counted(rows: Iterator[SourceRow], report: SplitReport) -> Iterator[SourceRow]:
    for row in rows:
        report.rows_in += 1
        yield row


def _count_filtered(rows: Iterator[SourceRow], report: SplitReport) -> Iterator[SourceRow]:
    """Yield the rows that a filter keeps, and count the others as dropped."""
    before, passed = report.rows_in, 0
    while True:
        row = next(rows, None)
        swallowed = report.rows_in - before - passed - (row is not None)
        report.drop("filter", count=swallowed)
        before += swallowed
        if row is None:
            return
        passed += 1
        yield row


def _value(row: SourceRow, select: Select | None) -> float:
    """The number in the column that rows are selected by; NaN for null. Raises `BadRow` and `DataError` D412."""
    if select is None or row.fault is not None:
        return math.nan
    try:
        value = ColumnValue.column(select.by).of(row.columns)
    except KeyError as error:
        raise DataError.of(
            "D412",
            f"`select` names the column `{select.by}`, which {row.where} lacks",
            why=f"it has {', '.join(row.columns)}",
            fix="correct `select.by` in the recipe",
        ) from error
    if value is None or value == "":
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise BadRow("no_number", f"`{select.by}` is {value!r:.60}, which is not a number") from error


def _selected(source: Source, places: np.ndarray, index: RowIndex, report: SplitReport) -> np.ndarray:
    select = source.select
    if select is None:
        return places
    count = select.top or select.bottom or 0
    values = [None if math.isnan(index.values[place]) else index.values[place] for place in places]
    chosen = places[top_rows(values, count, largest=select.top is not None)]
    if source.limit is not None:
        chosen = chosen[: source.limit]
    report.drop("select", count=len(places) - len(chosen))
    return chosen


def _row_hash(row: Row) -> int:
    """A 64-bit hash of everything in a row that affects training."""
    seen = [row.prompt, row.answers, row.label, row.weight, row.tools, row.template_kwargs, row.rendered]
    text = json.dumps(seen, sort_keys=True)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _too_many_bad_rows(bad: _BadRows, num_rows: int) -> DataError:
    findings: Iterable[Finding] = bad.first
    if bad.count > len(bad.first):
        more = Finding(
            "D404",
            f"{bad.count - len(bad.first)} more bad rows, {bad.count} of {num_rows} in all",
            fix="set `data.on_bad_row: drop`, or allow a share of them with `data.max_bad_fraction`",
        )
        findings = [*bad.first, more]
    return DataError(*findings)


def answer_texts(row: Row) -> str:
    """All texts of a row, for comparing rows by their words."""
    return "\n".join(message["content"] for message in row.messages)
