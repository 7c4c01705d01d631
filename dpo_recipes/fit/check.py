"""Checks before a base is loaded whether the run fits this machine, and changes settings if the recipe asks for it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dpo_recipes.errors import Finding, FitError
from dpo_recipes.fit.planner.changes import Change
from dpo_recipes.fit.planner.plan import JobPlan, Planner
from dpo_recipes.fit.planner.sharding import Sharding
from dpo_recipes.fit.planner.strategy import choose_strategy
from dpo_recipes.fit.planner.target import this_machine
from dpo_recipes.fit.planner.workload import Workload
from dpo_recipes.model.sources import ModelLocation
from dpo_recipes.objectives import fixed_micro_batch_reason
from dpo_recipes.recipe.schema import Recipe

DOUBT = 0.10
"""The margin of a prediction (docs/memory.md): a run is refused only if it does not fit at the lower end."""
_GIB = 2**30


@dataclass(frozen=True)
class Checked:
    """A recipe that may run, its plan on this machine, and findings for the person."""

    recipe: Recipe
    plan: JobPlan
    findings: tuple[Finding, ...] = ()
    reason: str = ""
    """Why this strategy was chosen."""


def check_fit(
    recipe: Recipe,
    location: ModelLocation,
    workload: Workload,
    *,
    trust_remote_code: bool,
    num_processes: int = 1,
    processes_here: int = 1,
) -> Checked:
    """Plan the run for this machine, each process on its device; on a CPU the processes of this machine share its
    memory. With `hardware.fit: true` the recipe that comes back may have other settings.

    Raises `FitError` F701 if it clearly does not fit and `hardware.fit` is not false, `RunError` M504, M507, M509 and
    M511.
    """
    target = this_machine(recipe).shared_by(processes_here)
    planners: dict[str, Planner] = {}

    def plan_with(sharding: Sharding) -> JobPlan:
        planners[sharding.strategy] = planner = Planner(
            recipe, location, target, workload, sharding, trust_remote_code=trust_remote_code
        )
        return planner.plan(recipe, with_changes=recipe.hardware.fit is not False)

    plan, reason = choose_strategy(recipe, num_processes, target.device, plan_with)
    return replace(_judge(recipe, plan, planners[plan.sharding.strategy]), reason=reason)


def _judge(recipe: Recipe, plan: JobPlan, planner: Planner) -> Checked:
    target = plan.target
    if plan.fits or recipe.hardware.fit is False:
        doubt = plan.memory.peak_bytes * (1 + DOUBT) > target.usable_bytes and recipe.hardware.fit is None
        return Checked(recipe, plan, (_close(plan),) if doubt else ())
    if recipe.hardware.fit:
        changed, change = planner.fit(plan)
        if change is not None:
            return Checked(changed, planner.plan(changed), (_adjusted(plan, change),))
    if plan.memory.peak_bytes > target.usable_bytes * (1 + DOUBT):
        raise FitError(_refused(plan))
    return Checked(recipe, plan, (_close(plan),))


def describe_settings(plan: JobPlan, change: Change) -> str:
    """The settings of a change as arguments of `--set`."""
    return " ".join(f"--set {path}={plain_value(value)}" for path, value in plan.written(change).items())


def plain_value(value: object) -> str:
    """A value in the form of the command line."""
    if isinstance(value, dict):
        return "'{" + ", ".join(f"{key}: {plain_value(item)}" for key, item in value.items()) + "}'"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _numbers(plan: JobPlan) -> str:
    memory = plan.memory
    largest = max(memory.highest.parts.items(), key=lambda part: part[1])
    return (
        f"it is predicted to need {memory.peak_bytes / _GIB:.2f} GiB while {memory.highest.name}, of which "
        f"{largest[0].replace('_', ' ')} take {largest[1] / _GIB:.2f}; {plan.target.usable_bytes / _GIB:.2f} GiB of "
        f"{plan.target.device.name} are free"
    )


def _refused(plan: JobPlan) -> Finding:
    fitting = next((change for change in plan.changes if change.fits), None)
    fix = f"`dpo-recipe plan {plan.recipe.name}` shows all parts; a smaller base or a larger device is needed"
    if fitting is not None:
        automatic = "makes such changes automatically" if fitting.is_same_job else "leaves such changes to you"
        fix = f"{describe_settings(plan, fitting)} ({fitting.price}); `--fit` {automatic}"
    reason = fixed_micro_batch_reason(plan.recipe)
    kept = f"; `--fit` cannot lower `micro_batch_size`, because {reason}" if reason else ""
    return Finding("F701", "the run does not fit into memory", why=_numbers(plan) + kept, fix=fix)


def _close(plan: JobPlan) -> Finding:
    fix = "`--fit` reduces memory automatically; `dpo-recipe plan` shows the parts"
    return Finding("F702", "memory will be tight", None, _numbers(plan), fix, "warning")


def _adjusted(plan: JobPlan, change: Change) -> Finding:
    settings = ", ".join(f"`{path}: {plain_value(value)}`" for path, value in plan.written(change).items())
    return Finding(
        "F703",
        f"changed to make the run fit: {settings}",
        None,
        f"{_numbers(plan)}; now it is {change.peak_bytes / _GIB:.2f} GiB; the price is: {change.price}",
        "write these values into the recipe, or remove `hardware.fit`",
        "warning",
    )
