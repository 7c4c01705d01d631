"""The sections `hardware` and `tracking`: what the run uses and whom it tells."""

from typing import Literal

from pydantic import Field

from dpo_recipes.recipe.schema.section import Section


class Hardware(Section):
    """The device the run is for."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="`auto` takes CUDA, else Apple's MPS, else the CPU."
    )
    profile: str | None = Field(
        default=None,
        description="The device that the recipe is meant for, by a name of docs/hardware.md, for example `a40-48gb`. "
        "What it cannot do is refused wherever the recipe is checked; the device that a run meets is checked again.",
    )
    fit: bool | None = Field(
        default=None,
        description="Absent: a run that clearly does not fit the device's memory is refused before its base is loaded. "
        "true: micro-batch, checkpointing and the optimizer's precision are changed so that it fits, and again when "
        "memory runs out all the same; the effective batch stays. false: nothing is checked (docs/memory.md).",
    )


class Tracking(Section):
    """Experiment trackers. metrics.jsonl and report.html are written always."""

    report_to: list[Literal["wandb", "tensorboard", "trackio"]] = Field(
        default_factory=list,
        description="Trackers to log to; their libraries come with `pip install 'dpo-recipe[track]'`. Credentials "
        "come from the environment, never from a recipe.",
    )
    project: str | None = Field(default=None, description="Project name in the tracker. Absent: the recipe's name.")
