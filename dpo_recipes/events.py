"""How a worker reports to the parent process: one JSON object for each line of `events.jsonl`.

It is a file and not a pipe, because it works for workers on other nodes, survives the parent, and can be read later.
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
    """Writes events to a file, a new one for each worker. Each line is written at once."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def emit(self, event: str, **fields: Any) -> None:
        """Write one event with the time, in seconds since the epoch."""
        line = json.dumps({"event": event, "time": round(time.time(), 3), **fields}) + "\n"
        # On a full disk a run ends where it must save something, with that reason, and not because of a progress line.
        with contextlib.suppress(OSError):
            self._file.write(line.encode())

    def stage(self, name: str, detail: str = "") -> None:
        """Report the start of a stage."""
        self.emit("stage", name=name, detail=detail)

    def note(self, text: str) -> None:
        """Send a message for the person; the parent shows it."""
        self.emit("note", text=text)

    def findings(self, findings: list[Finding] | tuple[Finding, ...]) -> None:
        """Send findings; the parent shows them."""
        for finding in findings:
            self.emit("finding", finding=finding.to_json())


class EventReader:
    """Reads the events that were appended since the last call."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0

    def new_events(self) -> Iterator[dict[str, Any]]:
        """Events since the last call; a line that is not complete yet is left for the next call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < self._position:
                self._position = 0  # a restarted worker has started a new file
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._position += len(line)
                with contextlib.suppress(ValueError):  # a line that a full disk or a kill has truncated
                    yield json.loads(line)
