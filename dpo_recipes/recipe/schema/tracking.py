"""The section `tracking`: the experiment trackers that the run reports to."""

from typing import Literal

from pydantic import Field

from dpo_recipes.section import Section

TrackerName = Literal[
    "azure_ml", "clearml", "codecarbon", "comet_ml", "dagshub", "dvclive", "flyte", "kubeflow", "mlflow", "neptune",
    "swanlab", "tensorboard", "trackio", "wandb",
]  # fmt: skip
"""The names that transformers 5.24 has for trackers (`INTEGRATION_TO_CALLBACK`)."""


class Tracking(Section):
    """Experiment trackers (docs/tracking.md). metrics.jsonl and report.html are always written."""

    report_to: list[TrackerName] = Field(
        default_factory=list,
        description="Trackers to report to. One that fails does not end the run. Credentials come from the environment "
        "or the tracker's own login, never from a recipe.",
    )
    project: str | None = Field(
        default=None,
        min_length=1,
        description="The project in the tracker. Absent: that of the tracker's environment variable, else the recipe's "
        "name.",
    )
    run_name: str | None = Field(
        default=None,
        min_length=1,
        description="The name of the run in the tracker. Absent: that of the tracker's environment variable, else the "
        "recipe's name and that of the run directory.",
    )
    group: str | None = Field(
        default=None,
        min_length=1,
        description="A group of runs that belong together, for trackers that have groups or tags.",
    )
    attach: bool = Field(
        default=True,
        description="Whether the recipe, the plan, the data report, and at the end the report, the result and the "
        "model card are uploaded to trackers that keep files. The reports contain rows and answers.",
    )
