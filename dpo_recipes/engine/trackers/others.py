"""Trackers of few calls: Azure ML, CodeCarbon, DVCLive, Kubeflow, Neptune."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from dpo_recipes.engine.trackers.base import Outcome, Row, Tracker, Tracking, by_split


class AzureML(Tracker):
    """The run of the Azure ML job in which the recipe is run; that job has project, name and state."""

    library = "azureml.core"
    job: Any

    def start(self) -> Tracking:
        """Find the job's run."""
        self.job = self.load().Run.get_context()
        return Tracking(id=self.job.id, url=self.job.get_portal_url())

    def log(self, row: Row, step: int) -> None:
        """Send the row."""
        for name, value in by_split(row).items():
            self.job.log(name, value, step=step)

    def attach(self, label: str, files: Sequence[Path]) -> None:
        """Store the files below the label."""
        for file in files:
            self.job.upload_file(f"{label}/{file.name}", str(file))

    def finish(self, outcome: Outcome) -> None:
        """Send the rows that have not been sent yet; the job ends by itself."""
        self.job.flush()


class CodeCarbon(Tracker):
    """Measures energy and estimates emissions; the run directory gets emissions.csv with a line for each process."""

    library = "codecarbon"
    meter: Any

    def start(self) -> Tracking:
        """Begin to measure."""
        self.meter = self.load().EmissionsTracker(
            project_name=self.project,
            experiment_id=self.run.key,
            output_dir=str(self.run.directory),
            allow_multiple_runs=True,
        )
        self.meter.start()
        return Tracking()

    def finish(self, outcome: Outcome) -> None:
        """Write the line."""
        self.meter.stop()


class DVCLive(Tracker):
    """Metrics and parameters as files in the run directory, for DVC."""

    library = "dvclive"
    live: Any

    def start(self) -> Tracking:
        """Begin or continue the files."""
        folder = self.run.directory / "dvclive"
        self.live = self.load().Live(
            dir=str(folder), resume=self.earlier is not None, save_dvc_exp=False, report=None, dvcyaml=None
        )
        if self.earlier is None:
            self.live.log_params({"recipe": self.config})
        return Tracking(id=str(folder))

    def log(self, row: Row, step: int) -> None:
        """Write the row."""
        self.live.step = step
        for name, value in by_split(row).items():
            self.live.log_metric(name, value)
        self.live.make_summary()

    def finish(self, outcome: Outcome) -> None:
        """End the files."""
        self.live.end()


class Kubeflow(Tracker):
    """Nothing to do: in a TrainJob, transformers (5.24) adds its own callback, which catches its failures itself."""

    library = ""


class Neptune(Tracker):
    """Neptune: its server, or files for `neptune sync` with NEPTUNE_MODE=offline."""

    library = "neptune"
    variables: ClassVar[Mapping[str, str]] = {"project": "NEPTUNE_PROJECT"}
    library_run: Any

    def start(self) -> Tracking:
        """Begin or continue the run; Neptune finds it by the id that we give."""
        self.library_run = self.load().init_run(
            project=self.project, name=self.name, custom_run_id=self.run.key, tags=[self.group] if self.group else None
        )
        self.library_run["recipe"] = {name: str(value) for name, value in self.flat_config.items()}
        return Tracking(id=self.run.key, url=self.library_run.get_url())

    def log(self, row: Row, step: int) -> None:
        """Send the row."""
        for name, value in by_split(row).items():
            self.library_run[name].append(value, step=step)

    def attach(self, label: str, files: Sequence[Path]) -> None:
        """Store the files below the label."""
        for file in files:
            self.library_run[f"files/{label}/{file.stem}"].upload(str(file))

    def finish(self, outcome: Outcome) -> None:
        """Send the rows that have not been sent yet."""
        self.library_run.stop()
