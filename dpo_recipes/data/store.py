"""Stores converted rows on disk, one JSON object a line, so that memory use does not grow with their number."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, overload

import numpy as np

from dpo_recipes.cache import remembered
from dpo_recipes.data.rows import Row


class RowWriter:
    """Writes rows to a file and records the byte offset of each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offsets = array("Q")
        self._file = path.open("wb")
        self._position = 0

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def write(self, row: Row) -> None:
        """Append one row."""
        self.write_line(encode_row(row))

    def write_line(self, line: bytes) -> None:
        """Append one row that is already encoded."""
        self.offsets.append(self._position)
        self._position += self._file.write(line)


class RowFile(Sequence[Row]):
    """The rows of a file as a sequence; each is read from disk when it is accessed."""

    def __init__(self, path: Path, offsets: Sequence[int] | np.ndarray | None = None) -> None:
        self.path = path
        self._offsets = _scan(path) if offsets is None else offsets
        self._file: IO[bytes] = path.open("rb")

    def __len__(self) -> int:
        return len(self._offsets)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return decode_row(self.line(index))

    def __iter__(self) -> Iterator[Row]:
        return self.rows(range(len(self)))

    def rows(self, indices: Iterable[int]) -> Iterator[Row]:
        """The rows at some indices, in that order."""
        return (decode_row(self.line(index)) for index in indices)

    def line(self, index: int) -> bytes:
        """The encoded line of one row."""
        self._file.seek(int(self._offsets[index]))
        return self._file.readline()

    def close(self) -> None:
        """Close the file. It is also closed when the object is garbage collected."""
        self._file.close()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


_DEFAULTS: dict[str, Any] = {"template_kwargs": {}, "columns": {}, "rendered": False}


def encode_row(row: Row) -> bytes:
    """A row as one line of JSON, without fields that have their default value."""
    plain = {name: value for name, value in vars(row).items() if value is not None and value != _DEFAULTS.get(name)}
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def decode_row(line: bytes) -> Row:
    """The row in one line that `encode_row` wrote."""
    plain: dict[str, Any] = json.loads(line)
    return Row(**{**plain, "answers": tuple(plain["answers"])})


def rows_sha256(path: Path) -> str:
    """The SHA-256 of the rows of a file in their order, which is computed once for each state of the file.

    The locations of the rows in their sources are left out: files may have other names, and rows other lines.
    """

    def digest(path: Path) -> str:
        total = hashlib.sha256()
        with path.open("rb") as file:
            for line in file:
                total.update(encode_row(replace(decode_row(line), where="")))
        return total.hexdigest()

    return remembered("sha256 of rows", path, digest)


def _scan(path: Path) -> np.ndarray:
    offsets = array("Q")
    position = 0
    with path.open("rb") as file:
        for line in file:
            offsets.append(position)
            position += len(line)
    return np.frombuffer(offsets, dtype=np.uint64) if offsets else np.empty(0, np.uint64)
