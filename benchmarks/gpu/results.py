"""The result file of the GPU check: whole at any moment, whoever is killed while it is written."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Results:
    """One JSON file, rewritten after each measurement. Several processes may record at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Any]:
        """All that is recorded so far."""
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}

    def record(self, part: str, name: str, value: Any) -> None:
        """Put a measurement in its place, at the side of earlier ones."""
        self.change(lambda content: content.setdefault(part, {}).update({name: value}))

    def change(self, apply: Callable[[dict[str, Any]], Any]) -> None:
        """Read, change and replace the file, one process at a time."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with Path(f"{self.path}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            content = self.read()
            apply(content)
            handle, name = tempfile.mkstemp(dir=self.path.parent, suffix=".part")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(json.dumps(content, indent=1, default=str) + "\n")
            Path(name).chmod(0o644)
            Path(name).replace(self.path)
