"""Plans one run: its data, its base and its devices, and from them peak memory, time and disk use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dpo_recipes.launch.batch import with_batch
from dpo_recipes.launch.choose import LaunchFlags, LaunchSketch, choose_batch, count_gpus, sketch_launch
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.run_dir import find_output_dir

if TYPE_CHECKING:
    from dpo_recipes.data.report import SplitReport
    from dpo_recipes.errors import Finding
    from dpo_recipes.fit.planner.plan import JobPlan
    from dpo_recipes.fit.planner.sharding import Sharding


@dataclass(frozen=True)
class PlanOptions:
    """What the command line says about a plan."""

    flags: LaunchFlags = field(default_factory=LaunchFlags)
    read_data: bool | None = None
    """Whether data are read for exact lengths; None: only those in local files."""
    trust_remote_code: bool = False
    reward_recipes: Mapping[str, Recipe] = field(default_factory=dict)
    """The recipes of reward models that do not exist yet, by the text that stands for the model: `step:reward`."""
    on_stage: Callable[[str, str], None] = lambda name, detail: None


@dataclass(frozen=True)
class PlannedRun:
    """The plan of a run with what was found on the way."""

    job: JobPlan
    launch: LaunchSketch
    reports: dict[str, SplitReport]
    """Of the splits, if the data were read."""
    findings: tuple[Finding, ...]


def plan_run(recipe: Recipe, options: PlanOptions) -> PlannedRun:
    """Plan a run without its weights. Raises every error that a stage before the weights raises."""
    from dpo_recipes.fit.advice.rules import advise
    from dpo_recipes.fit.planner.disk import check_sweep_space
    from dpo_recipes.fit.planner.plan import Planner, advice_facts
    from dpo_recipes.fit.planner.strategy import choose_strategy
    from dpo_recipes.fit.planner.target import find_target
    from dpo_recipes.fit.planner.workload import assume_workload, check_pass_budget, read_workload
    from dpo_recipes.model.preflight import check_base
    from dpo_recipes.model.sources import resolve_model
    from dpo_recipes.prepared_data import prepare_data

    trust = options.trust_remote_code and recipe.model.trust_remote_code
    target, given = find_target(recipe), recipe
    # A described device is a single one; the recipe or the command gives their number.
    batch = choose_batch(recipe, options.flags, count_gpus() if target.is_here else 0)
    target, recipe = target.shared_by(batch.processes_per_node), with_batch(recipe, batch)
    location = resolve_model(recipe.model)
    options.on_stage("check", f"{recipe.model.path}: module names and weights")
    found = check_base(recipe, location, trust_remote_code=trust)
    workload = assume_workload(recipe)
    reports: dict[str, SplitReport] = {}
    if _reads(given, options):
        prepared = prepare_data(recipe, options.on_stage, trust_remote_code=trust)
        workload, reports = read_workload(prepared.splits.datasets, recipe), prepared.splits.reports
        found = [*found, *prepared.splits.warnings]
        check_pass_budget(recipe, prepared.splits, batch.num_processes)
    options.on_stage("plan", f"{recipe.model.path} on {target.device.name}")

    def plan_with(sharding: Sharding) -> JobPlan:
        planner = Planner(
            recipe, location, target, workload, sharding,
            reward_recipes=options.reward_recipes, trust_remote_code=trust,
        )  # fmt: skip
        return planner.plan(recipe)

    job, reason = choose_strategy(recipe, batch.num_processes, target.device, plan_with)
    launch = sketch_launch(given, batch, job.sharding.strategy, reason, job.dtype)
    space = check_sweep_space(job.disk, find_output_dir(recipe.output_dir)) if target.is_here else []
    return PlannedRun(job, launch, reports, (*found, *space, *advise(advice_facts(job, reports))))


def _reads(recipe: Recipe, options: PlanOptions) -> bool:
    if options.read_data is None:
        return all(Path(source.path).is_absolute() for source in recipe.data.train)
    return options.read_data
