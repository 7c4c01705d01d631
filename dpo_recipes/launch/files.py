"""The files of a run directory about its processes: `launch.json` for the worker, and the libraries' configurations."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dpo_recipes.launch.batch import BatchPlan, batch_of, plan_batch
from dpo_recipes.launch.strategy_configs import deepspeed_config, fsdp_config, stage_of
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.strategies import SHARDS_WEIGHTS
from dpo_recipes.run_dir import RunDirectory, write_json


@dataclass(frozen=True)
class LaunchPlan:
    """How many processes a run has, what each one computes, and how they share the model."""

    batch: BatchPlan
    strategy: str
    """`auto` until the worker knows whether the whole job fits each device."""
    reason: str = "the recipe says so"
    """Why this strategy was chosen."""

    @property
    def shards_weights(self) -> bool:
        """Whether each process holds a shard of the weights, so that a forward pass needs all processes."""
        return self.strategy in SHARDS_WEIGHTS

    def to_json(self) -> dict[str, Any]:
        """The plan as plain data."""
        return {**self.batch.to_json(), "strategy": self.strategy, "reason": self.reason}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> LaunchPlan:
        """The inverse of `to_json`."""
        batch = BatchPlan(
            plain["num_processes"],
            plain["num_nodes"],
            plain["micro_batch_size"],
            plain["gradient_accumulation_steps"],
            plain["max_tokens"],
        )
        return cls(batch, plain["strategy"], plain["reason"])

    def with_batch_of(self, recipe: Recipe) -> LaunchPlan:
        """The plan with the micro-batch and accumulation of a recipe that has been fitted to a device."""
        return replace(self, batch=batch_of(recipe, self.batch.num_processes, self.batch.num_nodes))


def first_plan(recipe: Recipe, batch: BatchPlan) -> LaunchPlan:
    """The plan that is known before any library is loaded: one process shares nothing; else the recipe decides."""
    if recipe.launch.strategy == "auto" and batch.num_processes == 1:
        return LaunchPlan(batch, "ddp", "one process shares nothing")
    reason = "decided by the worker" if recipe.launch.strategy == "auto" else "the recipe says so"
    return LaunchPlan(batch, recipe.launch.strategy, reason)


def launch_folder(run: RunDirectory) -> Path:
    """The folder with the configurations of DeepSpeed, FSDP and accelerate."""
    return run.path / "launch"


def write_launch(run: RunDirectory, recipe: Recipe, plan: LaunchPlan, dtype: str | None = None) -> None:
    """Write `launch.json` and the configuration of the strategy, as far as it is decided."""
    write_json(run.path / "launch.json", plan.to_json())
    for name, config in configurations(recipe, plan, dtype).items():
        launch_folder(run).mkdir(exist_ok=True)
        write_json(launch_folder(run) / name, config)


def configurations(recipe: Recipe, plan: LaunchPlan, dtype: str | None = None) -> dict[str, dict[str, Any]]:
    """The libraries' configurations, by file name."""
    if stage_of(plan.strategy) is not None:
        return {"deepspeed.json": deepspeed_config(recipe, plan.strategy, plan.batch, dtype)}
    return {"fsdp.json": fsdp_config(recipe)} if plan.strategy == "fsdp" else {}


def read_launch(run: RunDirectory, recipe: Recipe) -> LaunchPlan:
    """The plan of a run directory; one without `launch.json` is for one process."""
    path = run.path / "launch.json"
    if not path.exists():
        return first_plan(recipe, plan_batch(recipe, 1))
    return LaunchPlan.from_json(json.loads(path.read_text(encoding="utf-8")))
