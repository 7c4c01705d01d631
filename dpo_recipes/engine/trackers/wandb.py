"""Weights & Biases: its servers, or files for `wandb sync` with WANDB_MODE=offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from dpo_recipes.engine.trackers.base import Outcome, Row, Tracker, Tracking, by_split
from dpo_recipes.engine.trackers.wandb_files import read_history

_STEP = "train/global_step"
_LONGEST_TITLE = 63
"""Characters of an alert's title (wandb 0.31, `Run.alert`)."""


class WandB(Tracker):
    """The id of the run is ours, so that a resumed run continues it even if it was offline."""

    library = "wandb"
    variables: ClassVar[Mapping[str, str]] = {
        "project": "WANDB_PROJECT",
        "run_name": "WANDB_NAME",
        "group": "WANDB_RUN_GROUP",
    }
    library_run: Any

    def start(self) -> Tracking:
        """Begin or continue the run, with `train/global_step` as the axis of all metrics."""
        wandb = self.load()
        self.library_run = wandb.init(
            project=self.project,
            name=self.name,
            group=self.group,
            id=self.run.key,
            resume="allow",
            dir=str(self.run.directory),
            config={"recipe": self.config},
            allow_val_change=True,
        )
        self.library_run.define_metric(_STEP)
        self.library_run.define_metric("*", step_metric=_STEP, step_sync=True)
        return Tracking(id=self.run.key, url=self.library_run.url)

    def last_step(self) -> int | None:
        """The last step that the server has, or offline the files of earlier processes; -1 if there is no row."""
        if not self.library_run.offline:
            return int(self.library_run.summary.get(_STEP, -1))
        files = (self.run.directory / "wandb").glob(f"offline-run-*-{self.run.key}/*.wandb")
        earlier = [file for file in files if file.parent != Path(self.library_run.dir).parent]
        if not earlier:  # they were sent and removed
            return None
        record = self.load("wandb.proto.wandb_internal_pb2").Record
        return max((int(row[_STEP]) for file in earlier for row in read_history(file, record)), default=-1)

    def log(self, row: Row, step: int) -> None:
        """Send the row."""
        self.library_run.log({**by_split(row), _STEP: step})

    def attach(self, label: str, files: Sequence[Path]) -> None:
        """Store the files as one artifact."""
        self.store_artifact(self.library_run, label, files)

    def alert(self, title: str, text: str) -> None:
        """Send the alert, which W&B passes on by e-mail or Slack."""
        if len(title) > _LONGEST_TITLE:
            title, text = f"{title[: _LONGEST_TITLE - 3]}...", f"{title}\n{text}"
        self.library_run.alert(title=title, text=text, level="WARN")

    def finish(self, outcome: Outcome) -> None:
        """Send the rows that have not been sent yet, and mark the run as finished or failed."""
        self.library_run.finish(exit_code=0 if outcome == "finished" else 1)
