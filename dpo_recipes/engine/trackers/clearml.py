"""ClearML: its server, or archives for `Task.import_offline_session` with CLEARML_OFFLINE_MODE=1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from dpo_recipes.engine.trackers.base import Outcome, Row, Tracker, Tracking, by_split


class ClearML(Tracker):
    """A task of ClearML is our run."""

    library = "clearml"
    variables: ClassVar[Mapping[str, str]] = {"project": "CLEARML_PROJECT", "run_name": "CLEARML_TASK"}
    task: Any

    def start(self) -> Tracking:
        """Begin a task, or continue the earlier one."""
        task_class = self.load().Task
        self.task = task_class.init(
            project_name=self.project,
            task_name=self.name,
            tags=[self.group] if self.group else None,
            reuse_last_task_id=False,
            continue_last_task=False if self.earlier is None or self.earlier.id is None else self.earlier.id,
            auto_connect_arg_parser=False,
            auto_connect_frameworks=False,
        )
        self.task.set_initial_iteration(0)  # steps are counted from the start of the run, also after a resume
        if self.earlier is None:
            self.task.connect(self.config, name="recipe")
        is_offline = self.task.id.startswith("offline-")
        return Tracking(id=self.task.id, url=None if is_offline else self.task.get_output_log_web_page())

    def log(self, row: Row, step: int) -> None:
        """Send the row: a chart for each split."""
        logger = self.task.get_logger()
        for name, value in by_split(row).items():
            split, _, series = name.partition("/")
            logger.report_scalar(title=split, series=series, value=value, iteration=step)

    def attach(self, label: str, files: Sequence[Path]) -> None:
        """Store the files as artifacts."""
        for file in files:
            self.task.upload_artifact(f"{label}/{file.name}", artifact_object=str(file), wait_on_upload=True)

    def finish(self, outcome: Outcome) -> None:
        """Send the rows that have not been sent yet, and mark the task."""
        if outcome == "failed":
            self.task.mark_failed(status_reason="the run failed; run.log has the reason")
        elif outcome == "interrupted":
            self.task.mark_stopped(status_message="the run was interrupted and can be resumed")
        self.task.close()
