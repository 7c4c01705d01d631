"""TensorBoard: event files in the run directory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dpo_recipes.engine.trackers.base import Outcome, Row, Tracker, Tracking, by_split
from dpo_recipes.recipe.dump import dump_plain

_LONGEST_TEXT = 100_000
"""Characters of a file that is shown as text."""


class TensorBoard(Tracker):
    """Metrics as scalars; recipe, plan and reports as texts, because TensorBoard keeps no files."""

    library = "tensorboard"
    replaces_rows = True
    writer: Any

    def start(self) -> Tracking:
        """Open the event file. After a resume, later rows replace those that a checkpoint does not have."""
        try:
            writer_class = self.load("torch.utils.tensorboard").SummaryWriter
        except ImportError:
            writer_class = self.load("tensorboardX").SummaryWriter
        above = os.environ.get("TENSORBOARD_LOGGING_DIR")
        folder = self.run.directory / "tensorboard" if above is None else Path(above).expanduser() / self.name
        later = {} if self.earlier is None else {"purge_step": self.run.first_step + 1 if self.run.first_step else 0}
        self.writer = writer_class(log_dir=str(folder), **later)
        if self.earlier is None:
            self._add_text("run", f"project: {self.project}\nname: {self.name}\ngroup: {self.group or 'none'}\n")
            self._add_text("config", dump_plain(self.config))
        return Tracking(id=str(folder))

    def log(self, row: Row, step: int) -> None:
        """Write the row so that a reader sees it at once."""
        for name, value in by_split(row).items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def attach(self, label: str, files: Sequence[Path]) -> None:
        """Show files of text; TensorBoard does not show HTML."""
        for file in files:
            if file.suffix != ".html":
                self._add_text(f"{label}/{file.name}", file.read_text(encoding="utf-8")[:_LONGEST_TEXT])
        self.writer.flush()

    def finish(self, outcome: Outcome) -> None:
        """Close the event file."""
        self.writer.close()

    def _add_text(self, tag: str, text: str) -> None:
        lines = "".join(f"    {line}\n" for line in text.splitlines())  # as code, in TensorBoard's Markdown
        self.writer.add_text(tag, lines, 0)
