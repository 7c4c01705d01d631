"""Decisions that the first process of a run makes for all processes before a weight is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dpo_recipes.engine.checkpoints.choice import Decided
from dpo_recipes.errors import Finding, RunError
from dpo_recipes.fit.advice.rules import advise
from dpo_recipes.fit.check import check_fit
from dpo_recipes.fit.planner.plan import JobPlan, advice_facts
from dpo_recipes.fit.planner.workload import check_pass_budget, read_workload
from dpo_recipes.launch.files import LaunchPlan
from dpo_recipes.launch.ranks import Rank
from dpo_recipes.recipe.schema import Recipe

if TYPE_CHECKING:
    from dpo_recipes.prepared_data import PreparedData


@dataclass(frozen=True)
class Decision:
    """The recipe as each process executes it, the launch plan, and findings for the person."""

    recipe: Recipe
    launch: LaunchPlan
    plan: JobPlan
    findings: tuple[Finding, ...]

    @property
    def reserve_bytes(self) -> int:
        """Memory that the optimizer will need on a device beside the first micro-batch."""
        parts = self.plan.memory.highest.parts
        return parts.get("optimizer", 0) + parts.get("gradients", 0)


def decide(
    recipe: Recipe,
    launch: LaunchPlan,
    rank: Rank,
    prepared: PreparedData,
    *,
    trust_remote_code: bool,
    before: Decided | None = None,
) -> Decision:
    """Plan the run with its real lengths. A resumed run keeps what was decided `before`, as long as that fits.

    Raises `FitError` F701, `RunError` T607 (a row does not fit into a pass) and T617 (the optimizer of its checkpoint
    no longer fits).
    """
    given = recipe.launch.strategy
    if before is not None:
        recipe = _keep_to(before, recipe, rank.num_processes)
    checked = check_fit(
        recipe,
        prepared.location,
        read_workload(prepared.splits.datasets, recipe),
        trust_remote_code=trust_remote_code,
        num_processes=rank.num_processes,
        processes_here=rank.processes_here,
    )
    check_pass_budget(checked.recipe, prepared.splits, rank.num_processes)
    if before is not None and checked.recipe.training.optimizer != before.training["optimizer"]:
        raise _other_optimizer(before.training["optimizer"], checked.recipe.training.optimizer)
    reason = checked.reason if recipe.launch.strategy == given else "as it was chosen when the run started"
    decided = LaunchPlan(launch.batch, checked.plan.sharding.strategy, reason).with_batch_of(checked.recipe)
    advice = advise(advice_facts(checked.plan, prepared.splits.reports))
    return Decision(checked.recipe, decided, checked.plan, (*checked.findings, *advice))


def _keep_to(before: Decided, recipe: Recipe, num_processes: int) -> Recipe:
    """The recipe with the decisions that were made when the run started. Settings that depend on the number of
    processes are used only with the same number."""
    if recipe.launch.strategy == "auto" and num_processes > 1:
        recipe = recipe.model_copy(update={"launch": recipe.launch.model_copy(update={"strategy": before.strategy})})
    if not recipe.hardware.fit:
        return recipe
    is_as_many = num_processes == before.num_processes
    names = before.training if is_as_many else ("optimizer", "gradient_checkpointing", "max_tokens_per_pass")
    settings = {name: before.training[name] for name in names}
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=settings)})


def _other_optimizer(earlier: str, now: str) -> RunError:
    return RunError.of(
        "T617",
        f"the checkpoint has the state of `{earlier}`, and now only `{now}` would fit",
        why="less memory is free than when the run started, and an optimizer cannot use the state of another one",
        fix="free the memory that other processes use (`nvidia-smi` shows them), or start a new run with `--no-resume`",
    )
