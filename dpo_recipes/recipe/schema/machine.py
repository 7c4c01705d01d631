"""The section `hardware`: the device of the run."""

from typing import Annotated, Literal

from pydantic import Field

from dpo_recipes.section import Section

Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    Field(description="`auto` uses CUDA if available, then Apple's MPS, then the CPU."),
]
"""The type of a field that chooses the device on which models compute."""


class Hardware(Section):
    """The device that the run is for."""

    device: Device = "auto"
    profile: str | None = Field(
        default=None,
        description="The device that the recipe is meant for, by its name in docs/hardware.md, for example `a40-48gb`. "
        "Settings that it does not support are refused wherever the recipe is validated; a run also checks the device "
        "that it actually uses.",
    )
    fit: bool | None = Field(
        default=None,
        description="Absent: a run that clearly does not fit the device's memory is refused before its base is "
        "loaded. true: micro-batch, checkpointing and the optimizer's precision are changed until it fits, and "
        "changed again if the run is still out of memory; the effective batch does not change, nor does a micro-batch "
        "that the loss depends on. false: memory is not checked (docs/memory.md).",
    )
