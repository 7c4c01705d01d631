"""Reads sources: filters rows, converts them by their format and writes them to disk, with an index in memory."""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any

import numpy as np

from dpo_recipes.data.column_use import ColumnUse, ReadColumns
from dpo_recipes.data.column_warnings import column_warnings
from dpo_recipes.data.convert import Conversion, check_shape
from dpo_recipes.data.detect import SAMPLE_ROWS, choose_format
from dpo_recipes.data.formats.messages import number_of
from dpo_recipes.data.report import SplitReport
from dpo_recipes.data.rows import BadRow, Row, SourceRow
from dpo_recipes.data.sources import Renamer, filtered, named_value, read_rows
from dpo_recipes.data.split import prompt_hash, top_rows
from dpo_recipes.data.store import RowWriter
from dpo_recipes.data.structured_text import message_columns, read_messages
from dpo_recipes.data.subsets import MAX_SUBSETS, NO_SUBSET, subset_of, too_many_subsets
from dpo_recipes.errors import DataError, Finding
from dpo_recipes.objectives.base import RowShape
from dpo_recipes.objectives.row_shapes import SUBSET
from dpo_recipes.recipe.schema.data import Data, Select, Source

ROW_NUMBERS: dict[RowShape, tuple[str, ...]] = {
    "pair": ("weight", "margin"),
    "labelled": ("weight",),
    "completion": ("weight",),
    "prompt": (),
}
"""Fields of rows that have numbers, by shape. They are only read from a column that `columns:` maps to them, since a
column of such a name may mean anything."""
_DEFAULTS = {"weight": 1.0, "margin": 0.0}
MAX_REPORTED = 10
"""The number of bad rows that one error names; the others are counted."""
_CODES = {"equal_answers": "D405", "bad_json": "D401"}
_UNDECIDED = "tie"
"""The reason of rows in which neither answer is better. They are not faulty, so they are only counted."""


@dataclass
class RowIndex:
    """Values of the spooled rows that avoid reading them again: one entry a row in each array (28 bytes a row)."""

    prompt_hashes: array = field(default_factory=lambda: array("Q"))
    row_hashes: array = field(default_factory=lambda: array("Q"))
    values: array = field(default_factory=lambda: array("d"))
    """The values of the column that `select` orders by; NaN without `select`."""
    subsets: array = field(default_factory=lambda: array("i"))
    """For each row the index of its subset in `subset_names`, or NO_SUBSET."""
    subset_names: list[str] = field(default_factory=list)
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
    sources: list[Source],
    data: Data,
    writer: RowWriter,
    index: RowIndex,
    report: SplitReport,
    at: tuple[str | int, ...] = ("data", "train"),
    *,
    keeps: Sequence[str] = (),
) -> list[np.ndarray]:
    """Read all sources of one split into the spool, and return the indices of the selected rows of each source.

    Rows are converted to the shape of the report. `at` is the path of the list of sources in the recipe, and `keeps`
    are the columns whose values the rows keep. Raises `DataError`: D401 to D413 as the sources and formats do, D403 (no
    rows), D404 (bad rows, unless they may be dropped), D409 (every row dropped), D415 (too many subsets), D417 (a
    column to keep is absent).
    """
    named = {name for source in sources for name in ROW_NUMBERS[report.shape] if name in source.columns}
    last = data.train_on_turns == "last"
    collector = _Collector(writer, index, report, sorted(named), splits_last_turn=last, keeps=tuple(keeps))
    before = len(index)
    picked = [collector.collect(source, (*at, place)) for place, source in enumerate(sources)]
    bad = collector.bad
    if bad.count and data.on_bad_row == "error" and bad.count > data.max_bad_fraction * report.rows_in:
        raise _too_many_bad_rows(bad, report.rows_in)
    num_read = report.rows_in - collector.num_added
    report.step("read", num_read)
    num_kept = num_read - report.dropped.get("filter", 0)
    if report.dropped.get("filter"):
        report.step("filter", num_kept)
    if len(index) - before != num_kept:
        report.step("convert", len(index) - before)
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


@dataclass
class _Collector:
    """Reads the sources of one split into the spool."""

    writer: RowWriter
    index: RowIndex
    report: SplitReport
    row_numbers: list[str]
    """The names in ROW_NUMBERS that a source of the split maps, so that all rows of the split have them."""
    splits_last_turn: bool
    keeps: tuple[str, ...] = ()
    """The columns whose values each row keeps."""
    bad: _BadRows = field(default_factory=_BadRows)
    num_added: int = 0
    """How many more rows the sources became than they have."""

    def collect(self, source: Source, at: tuple[str | int, ...]) -> np.ndarray:
        """The indices of the selected rows of a source. `at` is its path in the recipe."""
        start, renamer = len(self.index), Renamer(source.columns)
        rows = _named_rows(source, renamer, self.report)
        sample = list(islice(rows, SAMPLE_ROWS))
        if not sample:
            raise _no_rows(source, self.report)
        as_json = message_columns([row.columns for *_, row in sample if row.fault is None])
        data_format = choose_format(source, [read_messages(row, as_json) for *_, row in sample], self.report.shape)
        check_shape(source.path, data_format, self.report.shape)
        use = ColumnUse(source, data_format.name)
        conversion = Conversion(data_format, self.report.shape, self.splits_last_turn)
        for value, raw, row in chain(sample, rows):
            columns = ReadColumns(read_messages(row, as_json).columns)
            try:
                if row.fault is not None:
                    raise row.fault
                made = data_format.to_rows(SourceRow(columns, row.where))
                values = self._values(source, columns, at)
                if self.keeps:
                    values["columns"] = {name: _kept(columns, name, row.where) for name in self.keeps}
            except BadRow as error:
                if error.reason != _UNDECIDED:
                    self.bad.add(row.where, renamer.in_file_names(error))
                self.report.drop(error.reason, row.where)
                continue
            use.look(raw, columns.read, made)
            for one in conversion.convert([replace(one, **values) for one in made] if values else made, self.report):
                self._keep(one, value)
        self.num_added += conversion.num_added
        conversion.add_to(self.report)
        self.report.sources.append(use.to_json())
        self.index.warnings += column_warnings(use, data_format)
        return _selected(source, np.arange(start, len(self.index)), self.index, self.report)

    def _values(self, source: Source, columns: ReadColumns, at: tuple[str | int, ...]) -> dict[str, Any]:
        """The values of `row_numbers` in one row, the defaults if the source does not map them, and the row's subset.

        Raises `BadRow`, and `DataError` D415.
        """
        values: dict[str, Any] = {}
        for name in self.row_numbers:
            values[name] = number_of(columns.get(name), name) if name in source.columns else _DEFAULTS[name]
            if values[name] < 0:
                raise BadRow("bad_number", f"`{name}` is {values[name]:g}, less than 0")
        if SUBSET in source.columns:
            subset = values[SUBSET] = subset_of(columns.get(SUBSET))
            if subset is not None and subset not in self.index.subset_names:
                self.index.subset_names.append(subset)
            if len(self.index.subset_names) > MAX_SUBSETS:
                raise too_many_subsets(source, at, self.index.subset_names)
        return values

    def _keep(self, row: Row, value: float) -> None:
        self.writer.write(row)
        self.index.prompt_hashes.append(prompt_hash(row.prompt))
        self.index.row_hashes.append(_row_hash(row))
        self.index.subsets.append(NO_SUBSET if row.subset is None else self.index.subset_names.index(row.subset))
        self.index.values.append(value)


def _kept(columns: Mapping[str, Any], name: str, where: str) -> Any:
    """The value of a column that sources of rewards read. Raises `DataError` D417, and `BadRow` for a value that JSON
    lacks."""
    if name not in columns:
        raise DataError.of(
            "D417",
            f"{where} has no column `{name}`, which a source of rewards reads",
            why=f"it has {', '.join(columns)}",
            fix="correct the name in `rewards:`; if the file calls the column otherwise, map it with `columns:` of the "
            "source of rows",
        )
    value = columns[name]
    if isinstance(value, float) and math.isnan(value):  # an empty cell of a table
        return None
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise BadRow("bad_value", f"`{name}` is {type(value).__name__}, a type that JSON lacks") from error
    return value


def _no_rows(source: Source, report: SplitReport) -> DataError:
    dropped = report.dropped.get("filter")
    return DataError.of(
        "D403" if not dropped else "D409",
        f"{source.path} has no rows" if not dropped else f"`filter` keeps no row of {source.path}",
        why="there is nothing to train on" if not dropped else f"{dropped} rows were read: {source.filter}",
        fix="check the file, or remove the source" if not dropped else "correct the filter",
    )


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
    value = named_value(row, select.by, "select", fix="correct `select.by` in the recipe")
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
    seen = [row.prompt, row.answers, row.label, row.weight, row.margin, row.tools, row.template_kwargs, row.rendered]
    text = json.dumps([*seen, row.columns] if row.columns else seen, sort_keys=True)
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
