"""SwanLab: its servers, or files of this machine for `swanlab sync` with SWANLAB_MODE=offline."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from dpo_recipes.engine.trackers.base import Outcome, Row, Tracker, Tracking, by_split


class SwanLab(Tracker):
    """The id of the run is ours. Only runs on a server can be continued; offline, each process stores its own."""

    library = "swanlab"
    variables: ClassVar[Mapping[str, str]] = {
        "project": "SWANLAB_PROJECT",
        "run_name": "SWANLAB_EXP_NAME",
        "group": "SWANLAB_GROUP",
    }
    library_run: Any

    def start(self) -> Tracking:
        """Begin or continue the run."""
        self.library_run = self.load().init(
            project=self.project,
            name=self.name,
            group=self.group,
            id=self.run.key,
            resume="allow",
            log_dir=str(self.run.directory / "swanlog"),
            config={"recipe": self.config},
        )
        url = None
        with contextlib.suppress(ValueError):  # offline
            url = self.library_run.url
        return Tracking(id=self.run.key, url=url)

    def log(self, row: Row, step: int) -> None:
        """Store the row."""
        self.load().log(by_split(row), step=step)

    def attach(self, label: str, files: Sequence[Path]) -> None:
        """Upload the files."""
        for file in files:
            self.load().save(str(file), base_path=str(file.parent), policy="now")

    def finish(self, outcome: Outcome) -> None:
        """Send the rows that have not been sent yet, and mark the run."""
        if outcome == "failed":
            self.load().finish(state="crashed", error="the run failed; run.log has the reason")
        else:
            self.load().finish(state="success" if outcome == "finished" else "aborted")
