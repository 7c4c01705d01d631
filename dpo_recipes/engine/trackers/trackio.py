"""Trackio: a database on this machine, a Space of the Hugging Face hub, or a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from dpo_recipes.engine.trackers.base import Outcome, Row, Tracker, Tracking, by_split


class Trackio(Tracker):
    """Trackio finds a run to continue by its name. TRACKIO_SPACE_ID and TRACKIO_SERVER_URL choose the place."""

    library = "trackio"
    variables: ClassVar[Mapping[str, str]] = {"project": "TRACKIO_PROJECT"}
    library_run: Any

    def start(self) -> Tracking:
        """Begin a run, also beside an earlier one of the same name, or continue ours."""
        name = self.name if self.earlier is None or self.earlier.id is None else self.earlier.id
        self.library_run = self.load().init(
            project=self.project,
            name=name,
            group=self.group,
            config={"recipe": self.config},
            resume="never" if self.earlier is None else "allow",
            embed=False,
        )
        return Tracking(id=self.library_run.name)

    def last_step(self) -> int | None:
        """The step before the one that trackio would take next (0.43); it stores rows only twice a second."""
        return self.library_run._next_step - 1

    def log(self, row: Row, step: int) -> None:
        """Store the row."""
        self.library_run.log(by_split(row), step=step)

    def attach(self, label: str, files: Sequence[Path]) -> None:
        """Store the files as one artifact."""
        self.store_artifact(self.library_run, label, files)

    def alert(self, title: str, text: str) -> None:
        """Store the alert; trackio also sends it to TRACKIO_WEBHOOK_URL."""
        self.load().alert(title=title, text=text, level=self.load().AlertLevel.WARN)

    def finish(self, outcome: Outcome) -> None:
        """Wait until all rows are stored."""
        self.load().finish()
