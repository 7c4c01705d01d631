"""Divides the GPUs or cores of this machine among runs that are executed at the same time."""

from __future__ import annotations

import os

from dpo_recipes.hardware.machine import num_cores
from dpo_recipes.launch.choose import LaunchFlags, count_gpus, launcher_of
from dpo_recipes.recipe.schema import Recipe


def share_devices(recipe: Recipe, flags: LaunchFlags) -> list[dict[str, str]]:
    """The environment variables of each process that executes runs at the same time as the others.

    On GPUs there are at most as many processes as each gets a GPU, or the number of GPUs that a run needs. On a CPU the
    cores are divided, unless the recipe or the environment gives the number of threads. Nothing is divided if runs
    start on other machines.
    """
    parallel = recipe.sweep.parallel if recipe.sweep else 1
    if recipe.launch.backend != "auto" and launcher_of(recipe.launch.backend).is_remote:
        return [{} for _ in range(parallel)]
    gpus = visible_gpus() if recipe.hardware.device in ("auto", "cuda") else []
    if not gpus:
        threads = str(max(1, num_cores() // parallel))
        is_given = parallel == 1 or recipe.launch.num_threads or "OMP_NUM_THREADS" in os.environ
        return [{} if is_given else {"OMP_NUM_THREADS": threads} for _ in range(parallel)]
    given = flags.num_processes or recipe.launch.num_processes
    needed = given if isinstance(given, int) else 1
    parallel = max(1, min(parallel, len(gpus) // needed))
    share = len(gpus) // parallel
    return [{"CUDA_VISIBLE_DEVICES": ",".join(gpus[index * share : (index + 1) * share])} for index in range(parallel)]


def visible_gpus() -> list[str]:
    """The names by which CUDA_VISIBLE_DEVICES selects the GPUs that this process may use."""
    count = count_gpus()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in visible.split(",")] if visible else [str(index) for index in range(count)]
    return names[:count]
