"""The plan of a job: peak memory, time, disk use, and changes that would make it fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from dpo_recipes.data.report import SplitReport
from dpo_recipes.engine.prefix_trial import unsupported_reason
from dpo_recipes.fit.facts import JobFacts
from dpo_recipes.fit.planner.changes import Change, Outcome, apply, as_written, find_changes
from dpo_recipes.fit.planner.disk import estimate_disk
from dpo_recipes.fit.planner.duration import Duration, estimate_duration, work_of
from dpo_recipes.fit.planner.memory import MemoryEstimate, estimate_memory
from dpo_recipes.fit.planner.reward_models import RewardRecipes, plan_reward_models
from dpo_recipes.fit.planner.rollout import RolloutCost, rollout_cost
from dpo_recipes.fit.planner.sharding import Sharding
from dpo_recipes.fit.planner.target import Target
from dpo_recipes.fit.planner.workload import LengthTable, Workload
from dpo_recipes.fit.simulation.meta_model import MetaModel, Weights, load_meta_model, weigh
from dpo_recipes.fit.simulation.passes import Batch
from dpo_recipes.launch.batch import batch_of
from dpo_recipes.model.sources import ModelLocation
from dpo_recipes.objectives import objective_of
from dpo_recipes.recipe.schema import Recipe


@dataclass(frozen=True)
class JobPlan:
    """The resources that a job needs on a device, and its time."""

    recipe: Recipe
    target: Target
    dtype: str
    sharding: Sharding
    weights: Weights
    workload: Workload
    facts: JobFacts
    longest: Batch
    memory: MemoryEstimate
    duration: Duration
    disk: dict[str, int | None]
    changes: tuple[Change, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the peak fits into the device's memory."""
        return self.memory.peak_bytes <= self.target.usable_bytes

    @property
    def spare_bytes(self) -> int:
        """The device's memory minus the peak; negative if it does not fit."""
        return self.target.usable_bytes - self.memory.peak_bytes

    def written(self, change: Change) -> dict[str, Any]:
        """The settings of a change in the form of a recipe."""
        return as_written(change.settings, self.recipe, self.sharding.num_processes)

    def to_json(self) -> dict[str, Any]:
        """The plan as plain data; bytes, seconds and counts."""
        facts = self.facts
        return {
            "recipe": self.recipe.name,
            "hardware": self.target.device.name,
            "fits": self.fits,
            "device_bytes": self.target.usable_bytes,
            **self.memory.to_json(),
            "dtype": self.dtype,
            "num_processes": self.sharding.num_processes,
            "strategy": self.sharding.strategy,
            "parameters": self.weights.num_base,
            "trainable_parameters": self.weights.num_trainable,
            "micro_batch_size": self.recipe.training.micro_batch_size,
            "pairs_per_step": facts.rows_per_step,
            "num_train_pairs": facts.num_train_rows,
            "num_eval_pairs": facts.num_eval_rows,
            "steps": facts.num_steps,
            "tokens": self.workload.tokens("train"),
            "is_data_read": self.workload.is_read,
            "flops": self.duration.flops,
            "step_s": self.duration.step_s,
            "time_s": self.duration.total_s,
            "stages_s": self.duration.stages_s,
            "disk": self.disk,
            "changes": [{**change.to_json(), "settings": self.written(change)} for change in self.changes],
        }


class Planner:
    """Plans a recipe and variants of it on one base, one device and the same data."""

    def __init__(
        self,
        recipe: Recipe,
        location: ModelLocation,
        target: Target,
        workload: Workload,
        sharding: Sharding,
        *,
        reward_recipes: RewardRecipes | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        """Reads the configurations of the base and of reward models. `reward_recipes` are those of reward models that
        do not exist yet. Raises `RunError` M504, M509, M511."""
        self.recipe = recipe
        self._target = target
        self._workload = workload
        self._sharding = sharding
        self._meta_model = load_meta_model(recipe, location, target.device.kind, trust_remote_code=trust_remote_code)
        dtype = target.dtype(recipe, getattr(self._meta_model.config, "model_type", None))
        self._meta_model = self._meta_model.with_dtype(dtype)
        self._rates = target.rates(dtype)
        sources = objective_of(recipe).rewards(recipe.objective)
        self._reward_models = plan_reward_models(sources, target.device.kind, dtype, reward_recipes or {})
        self._weights: dict[str, Weights] = {}
        self._shares = True
        """Whether the configuration allows computing each distinct token once."""

    def plan(self, recipe: Recipe, *, with_changes: bool = True) -> JobPlan:
        """The plan of a variant of the recipe, with changes that would make it fit if it does not."""
        meta_model, weights = self._variant(recipe)
        longest, rollout = self._longest(recipe, meta_model, weights)
        memory = estimate_memory(meta_model, weights, longest, self._rates, self._sharding, rollout)
        facts = self._workload.facts(recipe, self._sharding.num_processes)
        changes: tuple[Change, ...] = ()
        if with_changes and memory.peak_bytes > self._target.usable_bytes:
            changes = tuple(find_changes(recipe, self._try, is_cuda=self._target.device.kind == "cuda"))
        return JobPlan(
            recipe,
            self._target,
            meta_model.dtype,
            self._sharding,
            weights,
            self._workload,
            facts,
            longest,
            memory,
            estimate_duration(meta_model, weights, self._typical(recipe), facts, self._rates, rollout),
            estimate_disk(meta_model, weights),
            changes,
        )

    def fit(self, plan: JobPlan) -> tuple[Recipe, Change | None]:
        """The recipe with the cheapest change that makes it fit and keeps it the same job, and that change. If no such
        change is enough, the unchanged recipe and None."""
        change = next((change for change in plan.changes if change.fits and change.is_same_job), None)
        return (plan.recipe, None) if change is None else (apply(plan.recipe, change.settings), change)

    def _variant(self, recipe: Recipe) -> tuple[MetaModel, Weights]:
        meta_model = self._meta_model.with_recipe(recipe)
        key = recipe.model.model_dump_json()
        if key not in self._weights:
            model = meta_model.build()
            self._weights[key] = weigh(meta_model, model)
            self._shares = unsupported_reason(model) is None
        return meta_model, self._weights[key]

    def _longest(self, recipe: Recipe, meta_model: MetaModel, weights: Weights) -> tuple[Batch, RolloutCost | None]:
        """The largest micro-batch, and what writing its answers costs."""
        lengths = self._workload.longest(recipe, self._sharding.num_processes, shares=self._shares)
        memory = self._target.device.memory_bytes
        rollout = rollout_cost(meta_model, weights, lengths, self._rates, memory, self._reward_models)
        return Batch.of(*lengths.T), rollout

    def _typical(self, recipe: Recipe) -> LengthTable:
        return self._workload.typical(recipe, shares=self._shares)

    def _try(self, recipe: Recipe) -> Outcome:
        meta_model, weights = self._variant(recipe)
        longest, rollout = self._longest(recipe, meta_model, weights)
        peak = estimate_memory(meta_model, weights, longest, self._rates, self._sharding, rollout).peak_bytes
        typical = self._typical(recipe)
        passes = batch_of(recipe).rows_per_step / len(typical)
        step_s = work_of(meta_model, Batch.of(*typical.T), self._rates).seconds * passes
        return Outcome(peak, step_s, peak <= self._target.usable_bytes)


def advice_facts(plan: JobPlan, reports: dict[str, SplitReport]) -> JobFacts:
    """The facts for advice: the plan's counts, and from the data report the shares of truncated and dropped rows."""
    facts = replace(plan.facts, trainable_parameters=plan.weights.num_trainable)
    report = reports.get("train")
    if report is None:
        return facts
    overlong = report.dropped.get("overlong", 0)
    total = max(1, report.rows_kept + overlong)
    return replace(
        facts,
        truncated_share=sum(report.truncated.values()) / total,
        dropped_overlong_share=overlong / total,
        num_desirable=report.desirable,
        num_undesirable=report.undesirable,
    )
