"""MLflow: the server of MLFLOW_TRACKING_URI, or files of this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from dpo_recipes.engine.trackers.base import Outcome, Row, Tracker, Tracking, by_split

_STATUS: dict[Outcome, str] = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
_NOT_ALLOWED = re.compile(r"[^0-9A-Za-z_\-. :/]")
_LONGEST_VALUE = 250
"""Characters that every MLflow server takes as a parameter."""
_MOST_AT_ONCE = 100
"""Parameters in one request."""


class MLflow(Tracker):
    """An MLflow experiment is our project. DagsHub is an MLflow server for each of its repositories."""

    library = "mlflow"
    variables: ClassVar[Mapping[str, str]] = {"project": "MLFLOW_EXPERIMENT_NAME", "run_name": "MLFLOW_RUN_NAME"}

    def start(self) -> Tracking:
        """Begin or continue the run. Its parameters are written once, because MLflow does not let them change."""
        mlflow = self.load()
        if self.earlier is not None:
            return self._describe(mlflow.start_run(run_id=self.earlier.id))
        mlflow.set_experiment(self.project)
        tags = {"group": self.group} if self.group else None
        run = mlflow.start_run(run_name=self.name, tags=tags)
        parameters = [(_allowed(name), str(value)[:_LONGEST_VALUE]) for name, value in self.flat_config.items()]
        for first in range(0, len(parameters), _MOST_AT_ONCE):
            mlflow.log_params(dict(parameters[first : first + _MOST_AT_ONCE]))
        return self._describe(run)

    def log(self, row: Row, step: int) -> None:
        """Store the row."""
        self.load().log_metrics({_allowed(name): value for name, value in by_split(row).items()}, step=step)

    def attach(self, label: str, files: Sequence[Path]) -> None:
        """Store the files below the label."""
        for file in files:
            self.load().log_artifact(str(file), artifact_path=label)

    def finish(self, outcome: Outcome) -> None:
        """End the run with its status."""
        self.load().end_run(status=_STATUS[outcome])

    def _describe(self, run: Any) -> Tracking:
        address = self.load().get_tracking_uri()
        page = f"{address}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
        return Tracking(id=run.info.run_id, url=page if address.startswith("http") else None)


def _allowed(name: str) -> str:
    return _NOT_ALLOWED.sub("_", name)
