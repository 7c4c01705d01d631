"""The device that a job is planned for: a named one, or the one of this machine."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dpo_recipes.fit.planner.rates import measure_rates, rates_of
from dpo_recipes.fit.simulation.trace import Rates
from dpo_recipes.hardware.machine import free_memory_bytes
from dpo_recipes.hardware.profiles import Device, profile
from dpo_recipes.hardware.rules import best_dtype
from dpo_recipes.recipe.schema import Recipe


@dataclass(frozen=True)
class Target:
    """A device and the part of its memory that a job can use."""

    device: Device
    usable_bytes: int
    is_here: bool
    """Whether it is this machine's; its rates are then measured."""

    def shared_by(self, num_processes: int) -> Target:
        """The target of one of several processes of a machine: a GPU of its own, or its share of CPU memory."""
        if self.device.kind != "cpu":
            return self
        return replace(self, usable_bytes=self.usable_bytes // num_processes)

    def dtype(self, recipe: Recipe, model_type: str | None) -> str:
        """The precision in which the job will compute there."""
        wanted = recipe.model.dtype
        return best_dtype(self.device, model_type=model_type) if wanted == "auto" else wanted

    def rates(self, dtype: str) -> Rates:
        """The rates in that precision."""
        return measure_rates(self.device.kind, dtype) if self.is_here else rates_of(self.device, dtype)


def find_target(recipe: Recipe) -> Target:
    """The device of `hardware.profile`, else the one of this machine. Raises `RunError` M507 (there is none)."""
    name = recipe.hardware.profile
    if name is not None:
        device = profile(name)
        return Target(device, device.usable_bytes, is_here=False)
    return this_machine(recipe)


def this_machine(recipe: Recipe) -> Target:
    """The device that a run here uses, with the memory that is free now. Raises `RunError` M507."""
    from dpo_recipes.model.precision import choose_device, describe_device

    device = describe_device(choose_device(recipe.hardware.device))
    return Target(device, free_memory_bytes(device.kind), is_here=True)
