"""What the first process of a run decides for all of them before a weight is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dpo_recipes.errors import Finding
from dpo_recipes.fit.advice import advise
from dpo_recipes.fit.check import check_fit
from dpo_recipes.fit.plan import JobPlan, facts_of
from dpo_recipes.fit.workload import read_workload
from dpo_recipes.launch.files import LaunchPlan
from dpo_recipes.launch.ranks import Place
from dpo_recipes.recipe.schema import Recipe

if TYPE_CHECKING:
    from dpo_recipes.pairs import PreparedPairs


@dataclass(frozen=True)
class Decision:
    """The recipe as each process executes it, what they share, and what a person should know of it."""

    recipe: Recipe
    launch: LaunchPlan
    plan: JobPlan
    findings: tuple[Finding, ...]

    @property
    def reserve_bytes(self) -> int:
        """What the optimizer will need on a device beside the first micro-batch."""
        parts = self.plan.memory.highest.parts
        return parts.get("optimizer", 0) + parts.get("gradients", 0)


def decide(
    recipe: Recipe, launch: LaunchPlan, place: Place, prepared: PreparedPairs, *, trust_remote_code: bool
) -> Decision:
    """Plan the run with the lengths it has. Raises `FitError` F701."""
    checked = check_fit(
        recipe,
        prepared.location,
        read_workload(prepared.splits.datasets),
        trust_remote_code=trust_remote_code,
        num_processes=place.num_processes,
        processes_here=place.processes_here,
    )
    decided = LaunchPlan(launch.batch, checked.plan.sharding.strategy, checked.reason).with_batch_of(checked.recipe)
    advice = advise(facts_of(checked.plan, prepared.splits.reports))
    return Decision(checked.recipe, decided, checked.plan, (*checked.findings, *advice))
