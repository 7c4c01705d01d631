"""Decides from a recipe, this machine and a few flags how many processes run and which launcher starts them."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dpo_recipes import registry
from dpo_recipes.errors import RecipeError, RunError
from dpo_recipes.hardware.machine import gpu_names
from dpo_recipes.launch import srun
from dpo_recipes.launch.batch import BatchPlan, count_processes, divisible_parts, divisors, plan_batch, with_batch
from dpo_recipes.launch.files import LaunchPlan, configurations
from dpo_recipes.launch.job import Launcher, LaunchRequest
from dpo_recipes.objectives import objective_of
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.strategies import SAVES_PIECES
from dpo_recipes.run_dir import RunDirectory


@dataclass(frozen=True)
class LaunchFlags:
    """What the command line says about processes; None leaves it to the recipe."""

    num_processes: int | None = None
    num_nodes: int | None = None
    rendezvous: str | None = None


def choose_batch(recipe: Recipe, flags: LaunchFlags, num_gpus: int | None = None) -> BatchPlan:
    """The processes that run and what each computes.

    Raises `RecipeError` R340 (they do not divide the batch) and R341 (nor the nodes).
    """
    gpus = count_gpus() if num_gpus is None else num_gpus
    counts = count_processes(recipe, gpus, num_processes=flags.num_processes, num_nodes=flags.num_nodes)
    return plan_batch(recipe, *counts)


def flags_of_retry(recipe: Recipe, flags: LaunchFlags | None, num_processes: int, strategy: str) -> LaunchFlags:
    """The flags to start a job again that first had `num_processes` processes.

    If neither recipe nor command line gives a number, GPUs of this machine that have failed meanwhile are left out: the
    job uses the largest number of the others that divides the parts of a step. `strategy` is the one in use:
    DeepSpeed's checkpoints need the same number of processes, and FSDP's need FSDP and therefore more than one process.
    """
    flags, num_gpus = flags or LaunchFlags(), count_gpus()
    is_elsewhere = _named_launcher(recipe).is_remote or (flags.num_nodes or recipe.launch.num_nodes) > 1
    if _is_given(recipe, flags) or is_elsewhere or strategy in SAVES_PIECES or num_gpus >= num_processes:
        return flags
    left = divisors(divisible_parts(recipe), num_gpus)
    return replace(flags, num_processes=left[0]) if left and (left[0] > 1 or strategy != "fsdp") else flags


def _is_given(recipe: Recipe, flags: LaunchFlags) -> bool:
    """Whether the recipe or the command line gives the number of processes."""
    return flags.num_processes is not None or recipe.launch.num_processes != "auto"


def check_devices(recipe: Recipe, batch: BatchPlan, num_gpus: int) -> None:
    """Raise `RunError` M507 if a node has fewer GPUs than processes that need one."""
    if not _named_launcher(recipe).checks_gpus(recipe):
        return
    uses_gpus = recipe.hardware.device == "cuda" or (recipe.hardware.device == "auto" and num_gpus > 0)
    if uses_gpus and 1 < batch.processes_per_node > num_gpus:
        raise RunError.of(
            "M507",
            f"{batch.processes_per_node} processes on this machine need as many GPUs, and it has {num_gpus}",
            why="each process trains on a GPU of its own (nvidia-smi and CUDA_VISIBLE_DEVICES show how many there are)",
            fix=f"take `--num-processes {max(1, num_gpus) * batch.num_nodes}`: the effective batch stays the same; or "
            "run it on a larger machine",
        )


def describe_idle(recipe: Recipe, batch: BatchPlan, flags: LaunchFlags, num_gpus: int) -> str | None:
    """A message about the GPUs that `num_processes: auto` leaves out, or None if it uses all."""
    idle = num_gpus - batch.processes_per_node
    if _is_given(recipe, flags) or idle <= 0 or recipe.hardware.device not in ("auto", "cuda"):
        return None
    where = " of each node" if batch.num_nodes > 1 else ""
    parts = divisible_parts(recipe)
    what = f"{objective_of(recipe).row_noun}s" if parts == batch.rows_per_step else "micro-batches"
    return (
        f"{idle} of {num_gpus} GPUs{where} are left out: the {parts} {what} of a step are not divisible "
        f"by {num_gpus * batch.num_nodes} (`training.gradient_accumulation_steps` changes them)"
    )


def choose_backend(recipe: Recipe, batch: BatchPlan) -> str:
    """The launcher: the one that the recipe names, else `local` for one process that shares nothing, else `torchrun`.

    DeepSpeed and FSDP need a process group even if one process offloads to CPU memory. Raises `RecipeError` R345 if
    the launcher that the recipe names starts only one process.
    """
    if recipe.launch.backend == "local" and batch.num_processes > 1:
        raise RecipeError.of(
            "R345",
            f"`backend: local` starts one process, but {batch.num_processes} are requested",
            why="it starts the worker without a launcher that could connect several processes",
            fix="use `backend: auto`, which starts torchrun, or add `--num-processes 1`",
        )
    if recipe.launch.backend != "auto":
        return recipe.launch.backend
    is_alone = batch.num_processes == 1 and recipe.launch.strategy in ("auto", "ddp")
    return "local" if is_alone else "torchrun"


@dataclass(frozen=True)
class LaunchSketch:
    """How a run would start: its command and the configurations that it would write."""

    plan: LaunchPlan
    command: list[str]
    configurations: dict[str, dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """The sketch as plain data."""
        return {"launch": self.plan.to_json(), "command": self.command, "configurations": self.configurations}


def sketch_launch(recipe: Recipe, batch: BatchPlan, strategy: str, reason: str, dtype: str) -> LaunchSketch:
    """The command and configurations of a recipe with a given batch plan and strategy."""
    plan = LaunchPlan(batch, strategy, reason)
    request = LaunchRequest(
        recipe, RunDirectory(Path("RUN_DIR")), batch.num_processes, batch.num_nodes, rendezvous="HOST:29500"
    )
    launcher = launcher_of(choose_backend(recipe, batch))
    files = {**launcher.configurations(request), **configurations(with_batch(recipe, batch), plan, dtype)}
    return LaunchSketch(plan, launcher.command(request), files)


def launcher_of(backend: str) -> Launcher:
    """The launcher with a name of `registry.LAUNCHERS`. In a task of an array, which is a job already, that of `slurm`
    starts the workers with srun."""
    if backend == "slurm" and srun.IN_TASK in os.environ:
        return srun.LAUNCHER
    return registry.load("launchers", backend)


def _named_launcher(recipe: Recipe) -> Launcher:
    """The launcher that the recipe names. The two between which `auto` chooses start on this machine alike."""
    return launcher_of("torchrun" if recipe.launch.backend == "auto" else recipe.launch.backend)


def num_gpus_of_node(recipe: Recipe) -> int:
    """The GPUs that a recipe may use on each node."""
    elsewhere = _named_launcher(recipe).num_gpus(recipe)
    return count_gpus() if elsewhere is None else elsewhere


def count_gpus() -> int:
    """NVIDIA GPUs that a process started here may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        named = [name for name in visible.split(",") if name.strip() not in ("", "-1")]
        return min(len(named), len(gpu_names())) if named else 0
    return len(gpu_names())
