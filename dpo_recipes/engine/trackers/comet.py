"""Comet: its servers, or archives for `comet upload` with COMET_START_ONLINE=0."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from dpo_recipes.engine.trackers.base import Outcome, Row, Tracker, Tracking, by_split


class Comet(Tracker):
    """The key of the experiment is ours. It has 32 letters and digits, as Comet wants it."""

    library = "comet_ml"
    variables: ClassVar[Mapping[str, str]] = {
        "project": "COMET_PROJECT_NAME",
        "run_name": "COMET_START_EXPERIMENT_NAME",
    }
    experiment: Any

    def start(self) -> Tracking:
        """Begin or continue the experiment."""
        comet_ml = self.load()
        key = hashlib.sha256(self.run.key.encode()).hexdigest()[:32]
        config = comet_ml.ExperimentConfig(
            name=self.name,
            tags=[self.group] if self.group else None,
            auto_metric_logging=False,  # of training loops that it recognizes
            auto_param_logging=False,
        )
        self.experiment = comet_ml.start(
            project_name=self.project, experiment_key=key, mode="get_or_create", experiment_config=config
        )
        if self.earlier is None:
            self.experiment.log_parameters({"recipe": self.config}, nested_support=True)
        return Tracking(id=key, url=getattr(self.experiment, "url", None))

    def log(self, row: Row, step: int) -> None:
        """Send the row."""
        self.experiment.log_metrics(by_split(row), step=step, epoch=row.get("epoch"))

    def attach(self, label: str, files: Sequence[Path]) -> None:
        """Store the files below the label."""
        for file in files:
            self.experiment.log_asset(str(file), file_name=f"{label}/{file.name}", overwrite=True)

    def finish(self, outcome: Outcome) -> None:
        """Send the rows that have not been sent yet."""
        self.experiment.end()
