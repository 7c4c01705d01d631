"""Values that are expensive to compute, kept in the cache one by one, so that a killed evaluation loses none of them.

A file holds the values of one model under one key for everything that affects them. Each line is one value with the key
of its input, so that another evaluation with more prompts computes only the new ones.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dpo_recipes.cache import cache_folder
from dpo_recipes.run_dir import read_json_lines


class KeptValues:
    """A table from keys to plain data, on disk. Without a key, values are kept in memory only."""

    def __init__(self, kind: str, key: str | None) -> None:
        self._path = None if key is None else cache_folder() / kind / f"{key}.jsonl"
        self._values: dict[str, Any] = {}
        for line in read_json_lines(self._path) if self._path else ():
            if isinstance(line, dict) and "key" in line and "value" in line:
                self._values[line["key"]] = line["value"]

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    @contextmanager
    def appending(self) -> Iterator[_Appender]:
        """Add values in this context. Several processes may do so at once: each adds whole lines."""
        if self._path is None:
            yield _Appender(self._values, None)
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab", buffering=0) as file:
            if file.tell():
                file.write(b"\n")  # the last line may be truncated
            yield _Appender(self._values, file.fileno())


class _Appender:
    def __init__(self, values: dict[str, Any], file: int | None) -> None:
        self._values, self._file = values, file

    def add(self, new: dict[str, Any]) -> None:
        """Add values, which are on disk when this returns."""
        self._values |= new
        if self._file is not None:
            lines = (json.dumps({"key": key, "value": value}) + "\n" for key, value in new.items())
            rest = "".join(lines).encode()
            while rest:  # a disk that has room for a part of them takes it, and refuses the rest
                rest = rest[os.write(self._file, rest) :]
