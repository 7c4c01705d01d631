"""Where rows come from: local files read line by line, or hub datasets through `datasets`."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

from dpo_recipes.data.rows import RowIterator, SourceRow
from dpo_recipes.errors import DataError, DpoRecipeError
from dpo_recipes.recipe.schema.data import Source


def read_rows(source: Source) -> RowIterator:
    """The rows of a source with its `columns` renamed and its `limit` applied.

    Raises `DataError` D401 (cannot be read), D402 (a named column is missing) and D410 (hub).
    """
    rows = _read_local(Path(source.path)) if Path(source.path).is_absolute() else _read_hub(source)
    for row in islice(rows, source.limit):
        yield _rename(row, source) if source.columns else row


def _rename(row: SourceRow, source: Source) -> SourceRow:
    missing = [theirs for theirs in source.columns.values() if theirs not in row.columns]
    if missing:
        raise DataError.of(
            "D402",
            f"{row.where} has no column `{missing[0]}`",
            why=f"it has {', '.join(row.columns)}",
            fix="correct `columns:` in the recipe",
        )
    # A column that already has a mapped name gives way to the one that the recipe names.
    taken = {*source.columns, *source.columns.values()}
    others = {name: value for name, value in row.columns.items() if name not in taken}
    return SourceRow({**others, **{ours: row.columns[theirs] for ours, theirs in source.columns.items()}}, row.where)


def _read_local(path: Path) -> RowIterator:
    readers: dict[str, Callable[[Path], RowIterator]] = {
        ".jsonl": _read_jsonl,
        ".json": _read_json,
        ".csv": _read_csv,
        ".parquet": _read_parquet,
    }
    reader = readers[Path(path.name.removesuffix(".gz")).suffix]
    try:
        yield from reader(path)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise DataError.of(
            "D401",
            f"cannot read {path}",
            why=f"{type(error).__name__}: {error}",
            fix="check that the file is complete and of the kind that its name says",
        ) from error


def _open_text(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _read_jsonl(path: Path) -> RowIterator:
    with _open_text(path) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                where = f"{path.name}:{number}"
                yield _json_row(_parse_json(line, path, number), where, path)


def _read_json(path: Path) -> RowIterator:
    with _open_text(path) as file:
        rows = _parse_json(file.read(), path, None)
    if isinstance(rows, dict) and len(rows) == 1 and isinstance(next(iter(rows.values())), list):
        rows = next(iter(rows.values()))
    if not isinstance(rows, list):
        raise DataError.of(
            "D401",
            f"{path} holds no list of rows",
            why="a .json file is one list of objects",
            fix="write a list, or one object a line in a .jsonl file",
        )
    for index, row in enumerate(rows):
        yield _json_row(row, f"{path.name}[{index}]", path)


def _parse_json(text: str, path: Path, line: int | None) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at = f"{path}:{line or error.lineno}:{error.colno}"
        raise DataError.of(
            "D401",
            f"{at} is not valid JSON",
            why=error.msg,
            fix="correct or delete the line" if line else "correct the file",
        ) from error


def _json_row(row: Any, where: str, path: Path) -> SourceRow:
    if not isinstance(row, dict):
        raise DataError.of(
            "D401",
            f"{path.parent / where} is not an object",
            why="a row has named columns",
            fix='write {"prompt": ..., "chosen": ..., "rejected": ...}',
        )
    return SourceRow(row, where)


def _read_csv(path: Path) -> RowIterator:
    csv.field_size_limit(sys.maxsize)
    with _open_text(path) as file:
        reader = csv.DictReader(file, strict=True)
        for row in reader:
            where = f"{path.name}:{reader.line_num}"
            if None in row or None in row.values():
                raise DataError.of(
                    "D401",
                    f"{path}:{reader.line_num} has another number of fields than the header",
                    why=f"the header names {len(reader.fieldnames or [])}",
                    fix="quote fields that hold commas or line breaks",
                )
            yield SourceRow(row, where)


def _read_parquet(path: Path) -> RowIterator:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        batches = pq.ParquetFile(path).iter_batches(batch_size=1000)
        number = 0
        for batch in batches:
            for row in batch.to_pylist():
                yield SourceRow(row, f"{path.name}[{number}]")
                number += 1
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error


def _read_hub(source: Source) -> Iterator[SourceRow]:
    from datasets import load_dataset

    try:
        dataset = load_dataset(source.path, source.name, split=source.split, revision=source.revision)
    except DpoRecipeError:  # a requested stop that came in the middle
        raise
    except Exception as error:  # whatever datasets, huggingface_hub or the network raise, the person hears one thing
        raise DataError.of(
            "D410",
            f"cannot load the dataset {source.path}",
            why=f"{type(error).__name__}: {error}".splitlines()[0],
            fix="check the id, `name`, `split` and the network (`dpo-recipe doctor`), or download it and give the "
            "path of the file",
        ) from error
    for index, row in enumerate(dataset):
        yield SourceRow(dict(row), f"{source.path}[{source.split}][{index}]")
