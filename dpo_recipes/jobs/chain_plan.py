"""Plans a chain: each step as it would be, and the sums of time and disk use and the highest peak."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dpo_recipes.errors import DpoRecipeError, Finding
from dpo_recipes.jobs.chain_checks import findings_of_steps
from dpo_recipes.jobs.chain_file import ValidatedChain
from dpo_recipes.jobs.plan import PlanOptions
from dpo_recipes.jobs.steps.base import StepPlan


@dataclass(frozen=True)
class ChainPlan:
    """The plans of the steps, in the order of need."""

    name: str
    steps: dict[str, StepPlan]
    findings: tuple[Finding, ...]

    @property
    def fits(self) -> bool:
        """Whether all steps fit."""
        return all(plan.fits for plan in self.steps.values())

    @property
    def highest(self) -> str | None:
        """The step with the highest peak; None if no step knows its peak."""
        known = {name: plan.peak_bytes for name, plan in self.steps.items() if plan.peak_bytes is not None}
        return max(known, key=lambda name: known[name]) if known else None

    @property
    def time_s(self) -> float | None:
        """The time of all steps one after the other; None if that of one is unknown."""
        times = [plan.time_s for plan in self.steps.values()]
        return None if None in times else sum(time or 0.0 for time in times)

    @property
    def disk_bytes(self) -> int:
        """What all steps write, and the bases that they load, each once. Sizes that are unknown are left out."""
        bases = {base: size or 0 for plan in self.steps.values() for base, size in plan.bases.items()}
        return sum(bases.values()) + sum(plan.disk_bytes or 0 for plan in self.steps.values())

    def to_json(self) -> dict[str, Any]:
        """The plan as plain data; bytes and seconds."""
        return {
            "chain": self.name,
            "fits": self.fits,
            "peak_bytes": self.steps[self.highest].peak_bytes if self.highest else None,
            "highest_step": self.highest,
            "time_s": self.time_s,
            "disk_bytes": self.disk_bytes,
            "steps": {name: plan.details for name, plan in self.steps.items()},
        }


def plan_chain(validated: ValidatedChain, options: PlanOptions) -> ChainPlan:
    """Plan all steps without weights. What does not exist yet is taken to be like what it will be made from. Raises
    every error that a stage before the weights raises."""
    plans: dict[str, StepPlan] = {}
    findings: list[tuple[str, Finding]] = []
    file = validated.composed.file
    for step in validated.steps:
        where = step.checked.composed.where
        try:
            plans[step.name] = plan = step.kind.plan(step, options)
        except DpoRecipeError as error:
            found = [(step.name, finding) for finding in error.located(where).findings]
            raise type(error)(*findings_of_steps(found, file)) from error
        findings += [(step.name, finding.located(where)) for finding in plan.findings]
    return ChainPlan(validated.chain.name, plans, tuple(findings_of_steps(findings, file)))
