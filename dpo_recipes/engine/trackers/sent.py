"""Remembers what each tracker has taken, so that a resumed run does not send it again.

A run that was killed has sent rows after its last checkpoint, and computes them again. Most trackers only append.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dpo_recipes.run_dir import read_json_lines


@dataclass(frozen=True)
class Sent:
    """One row of metrics or one alert, as the record names it. A step may have several rows with other columns."""

    step: int
    content: str

    @classmethod
    def row(cls, step: int, names: Iterable[str]) -> Sent:
        """A row of metrics.jsonl with these columns."""
        return cls(step, _digest(sorted(names)))

    @classmethod
    def alert(cls, step: int, title: str) -> Sent:
        """An alert of this title."""
        return cls(step, _digest(["alert", title]))


def _digest(texts: Sequence[str]) -> str:
    return f"{zlib.crc32(json.dumps(texts).encode()):08x}"


class SentRecord:
    """A file with a line for each row and alert, and the names of the trackers that have taken it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def taken_by(self, tracker: str, last_step: int | None) -> set[Sent]:
        """What a tracker has taken. `last_step` is the last one that it still has, if it can tell: a process that is
        killed may lose what its tracker has taken and not stored."""
        taken = set()
        for line in read_json_lines(self.path):
            with contextlib.suppress(KeyError, TypeError):  # a line that somebody has changed
                if tracker in line["by"] and (last_step is None or line["step"] <= last_step):
                    taken.add(Sent(line["step"], line["content"]))
        return taken

    def add(self, sent: Sent, trackers: Sequence[str]) -> None:
        """Append a line."""
        line = {"step": sent.step, "content": sent.content, "by": list(trackers)}
        # A full disk ends the run where it must save something.
        with contextlib.suppress(OSError), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
