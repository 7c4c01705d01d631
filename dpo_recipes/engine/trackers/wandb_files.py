"""Reads the rows that W&B has kept offline, from the files that `wandb sync` sends (wandb 0.31).

A file has the format of LevelDB's log: after 7 bytes, blocks of 32 KiB with records of a checksum (4 bytes), a length
(2) and a type (1). W&B writes whole blocks, so that a process which is killed loses the rows of the last one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK = 2**15
_HEADER = 7
_WHOLE, _LAST = 1, 4
"""The types of a record that is not divided, and of the last part of one."""


def read_history(path: Path, record_type: Any) -> Iterator[dict[str, Any]]:
    """The rows of a file. `record_type` is the class `Record` of `wandb.proto.wandb_internal_pb2`."""
    data, at, parts = path.read_bytes(), _HEADER, b""
    while at + _HEADER <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:  # the end of a block is too short for a record
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        end = at + _HEADER + length
        if end > len(data):  # a kill has cut it off
            return
        parts, at = parts + data[at + _HEADER : end], end
        if kind in (_WHOLE, _LAST):
            record, parts = record_type.FromString(parts), b""
            if record.HasField("history"):
                items = record.history.item
                yield {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
