"""Reads Parquet and Arrow files batch by batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dpo_recipes.data.rows import RowIterator, SourceRow

_BATCH_ROWS = 1000


def read_parquet(path: Path) -> RowIterator:
    """The rows of a Parquet file. Raises `ValueError` with pyarrow's message if the file is damaged."""
    import pyarrow.parquet as pq

    with _arrow_errors(), pq.ParquetFile(path) as file:
        _check_names(file.schema_arrow.names)
        yield from _batch_rows(file.iter_batches(batch_size=_BATCH_ROWS), path)


def _check_names(names: list[str]) -> None:
    """Raises `ValueError` if a name occurs twice: a row has only one value for each name."""
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"the column `{twice[0]}` occurs twice; rename or remove one of the two")


def read_arrow(path: Path) -> RowIterator:
    """The rows of an Arrow file, in the stream format, which `datasets` writes, or in the file format.

    Raises `ValueError` with pyarrow's message if the file is damaged.
    """
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
                yield SourceRow(row, f"{path.name}[{number}]", has_filled_nulls=True)
                number += 1


class _arrow_errors:  # in lower case because it is used like a function
    """Raises pyarrow's errors as `ValueError`, which the caller turns into D401."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        import pyarrow as pa

        if isinstance(error, pa.ArrowException):
            raise ValueError(str(error)) from error
