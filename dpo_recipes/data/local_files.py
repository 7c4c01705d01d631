"""Rows of local files, read one after the other with flat memory (but for `.json`, which is one value)."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from dpo_recipes.data.rows import BadRow, RowIterator, SourceRow
from dpo_recipes.errors import DataError
from dpo_recipes.recipe.paths import DATA_SUFFIXES

_BATCH_ROWS = 1000


def find_files(path: Path, patterns: list[str], split: str) -> list[Path]:
    """The data files of a file or folder, in the order of their names.

    A folder that `DatasetDict.save_to_disk` wrote has one folder for each split. Raises `DataError` D401 when there
    is none.
    """
    if path.is_file():
        return [path]
    folder = path / split if (path / "dataset_dict.json").is_file() else path
    found = [file for pattern in patterns or ["*"] for file in sorted(folder.glob(pattern)) if file.is_file()]
    files = list(dict.fromkeys(file for file in found if file.name.endswith(DATA_SUFFIXES)))
    if not patterns:  # notes about the data, not data
        files = [file for file in files if file.name not in ("dataset_info.json", "state.json")]
    if not files:
        raise DataError.of(
            "D401",
            f"there is no data file in {folder}",
            why=f"none that fits {', '.join(patterns)}"
            if patterns
            else f"data files end in {', '.join(DATA_SUFFIXES)}",
            fix="correct the folder, or `data_files`",
        )
    return files


def read_file(path: Path) -> RowIterator:
    """The rows of one file, by its suffix. Raises `DataError` D401 when it is damaged or not what its name says."""
    readers: dict[str, Callable[[Path], RowIterator]] = {
        ".jsonl": _read_jsonl,
        ".json": _read_json,
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".parquet": _read_parquet,
        ".arrow": _read_arrow,
    }
    try:
        yield from readers[Path(path.name.removesuffix(".gz")).suffix](path)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise DataError.of(
            "D401",
            f"cannot read {path}",
            why=f"{type(error).__name__}: {error}",
            fix="check that the file is complete and of the kind that its name says",
        ) from error


def _open_text(path: Path) -> IO[str]:
    # A byte order mark, which spreadsheets write, is no part of the first column's name.
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _read_jsonl(path: Path) -> RowIterator:
    with _open_text(path) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _jsonl_row(line, f"{path.name}:{number}")


def _jsonl_row(line: str, where: str) -> SourceRow:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        at = f"column {error.colno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        return SourceRow({}, where, BadRow("bad_json", f"not valid JSON at {at}"))
    return _object_row(row, where)


def _object_row(row: Any, where: str) -> SourceRow:
    if isinstance(row, dict):
        return SourceRow(row, where)
    return SourceRow(
        {}, where, BadRow("bad_json", f"the row is {type(row).__name__}, not an object with named columns")
    )


def _read_json(path: Path) -> RowIterator:
    with _open_text(path) as file:
        try:
            rows = json.load(file)
        except (json.JSONDecodeError, RecursionError) as error:
            at = f":{error.lineno}:{error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            raise DataError.of(
                "D401",
                f"{path}{at} is not valid JSON",
                why=str(error),
                fix="correct the file; one object a line is .jsonl",
            ) from error
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
        yield _object_row(row, f"{path.name}[{index}]")


def _read_csv(path: Path) -> RowIterator:
    csv.field_size_limit(sys.maxsize)
    delimiter = "\t" if path.name.removesuffix(".gz").endswith(".tsv") else ","
    with _open_text(path) as file:
        reader = csv.DictReader(file, strict=True, delimiter=delimiter)
        for row in reader:
            if None in row or None in row.values():
                raise DataError.of(
                    "D401",
                    f"{path}:{reader.line_num} has another number of fields than the header",
                    why=f"the header names {len(reader.fieldnames or [])}",
                    fix="quote fields that hold separators or line breaks",
                )
            yield SourceRow(row, f"{path.name}:{reader.line_num}")


def _read_parquet(path: Path) -> RowIterator:
    import pyarrow.parquet as pq

    with _arrow_errors(), pq.ParquetFile(path) as file:
        yield from _batch_rows(file.iter_batches(batch_size=_BATCH_ROWS), path)


def _read_arrow(path: Path) -> RowIterator:
    """An Arrow file in the stream format, which `datasets` writes, or in the file format."""
    import pyarrow as pa

    with _arrow_errors(), pa.memory_map(str(path)) as file:
        is_file_format = file.read(6) == b"ARROW1"
        file.seek(0)
        if is_file_format:
            reader = pa.ipc.open_file(file)
            batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
        else:
            batches = pa.ipc.open_stream(file)
        yield from _batch_rows(batches, path)


def _batch_rows(batches: Any, path: Path) -> RowIterator:
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, _BATCH_ROWS):
            for row in batch.slice(start, _BATCH_ROWS).to_pylist():
                yield SourceRow(row, f"{path.name}[{number}]")
                number += 1


class _arrow_errors:  # written like a function, and used like one
    """pyarrow's errors as `ValueError`, which the caller turns into D401."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        import pyarrow as pa

        if isinstance(error, pa.ArrowException):
            raise ValueError(str(error)) from error


def file_rows(files: list[Path]) -> Iterator[SourceRow]:
    """The rows of several files, one after the other."""
    for file in files:
        yield from read_file(file)
