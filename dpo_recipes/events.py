"""How a worker tells the parent process what it does: one JSON object a line in `events.jsonl`.

A file, not a pipe: it works for workers on other nodes, survives the parent, and can be read afterwards.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dpo_recipes.errors import Finding


class EventLog:
    """Writes events to a file, anew for each worker; each line is written whole."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def emit(self, event: str, **fields: Any) -> None:
        """Write one event with the time, in seconds since the epoch."""
        line = json.dumps({"event": event, "time": round(time.time(), 3), **fields}) + "\n"
        # On a full disk a run ends where it wants to keep something, and says why; not for want of a line of progress.
        with contextlib.suppress(OSError):
            self._file.write(line.encode())

    def stage(self, name: str, detail: str = "") -> None:
        """Say that a stage begins."""
        self.emit("stage", name=name, detail=detail)

    def note(self, text: str) -> None:
        """Say what a person should know; the parent shows it."""
        self.emit("note", text=text)

    def findings(self, findings: list[Finding] | tuple[Finding, ...]) -> None:
        """Pass findings on; the parent shows them."""
        for finding in findings:
            self.emit("finding", finding=finding.to_json())


class EventReader:
    """Reads what was appended since the last call."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0

    def new_events(self) -> Iterator[dict[str, Any]]:
        """Events that came since the last call; a line that is not finished yet waits for the next."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < self._position:
                self._position = 0  # a worker that was started again has begun the file anew
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._position += len(line)
                with contextlib.suppress(ValueError):  # what a full disk or a kill has torn
                    yield json.loads(line)
