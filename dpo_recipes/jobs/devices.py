"""Divides the GPUs, or the cores and the memory, of this machine among runs that are executed at the same time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dpo_recipes.hardware.machine import MEMORY_SHARE, free_memory_bytes, num_cores
from dpo_recipes.launch.choose import LaunchFlags, count_gpus, launcher_of
from dpo_recipes.recipe.schema import Recipe


@dataclass(frozen=True)
class DeviceWish:
    """What a run says about the devices on which it computes."""

    device: str = "auto"
    """As in `hardware.device`."""
    num_processes: int | None = None
    """None: as many as there are devices for."""
    is_elsewhere: bool = False
    """Whether it is executed on other machines."""
    has_threads: bool = False
    """Whether it says how many threads it takes."""

    @classmethod
    def of(cls, recipe: Recipe) -> DeviceWish:
        """That of a recipe."""
        launch = recipe.launch
        return cls(
            recipe.hardware.device,
            launch.num_processes if isinstance(launch.num_processes, int) else None,
            launch.backend != "auto" and launcher_of(launch.backend).is_remote,
            launch.num_threads is not None,
        )


def share_devices(
    wishes: Sequence[DeviceWish], parallel: int | Literal["auto"], flags: LaunchFlags
) -> list[dict[str, str]]:
    """The environment variables of each process that executes runs at the same time as the others.

    On GPUs there are at most as many processes as each gets a GPU, or the number of GPUs that a run needs. On a CPU the
    free memory is divided, and the cores, unless a run or the environment gives the number of threads. Nothing is
    divided if runs start on other machines. `auto` is as many processes as there are GPUs for, and one without GPUs.
    """
    if any(wish.is_elsewhere for wish in wishes):
        return [{} for _ in range(1 if parallel == "auto" else parallel)]
    gpus = visible_gpus() if any(wish.device in ("auto", "cuda") for wish in wishes) else []
    if not gpus:
        parallel = 1 if parallel == "auto" else parallel
        return [_share_of_cpu(wishes, parallel) if parallel > 1 else {} for _ in range(parallel)]
    needed = flags.num_processes or max(wish.num_processes or 1 for wish in wishes)
    fitting = len(gpus) // needed
    parallel = max(1, fitting if parallel == "auto" else min(parallel, fitting))
    share = len(gpus) // parallel
    return [{"CUDA_VISIBLE_DEVICES": ",".join(gpus[index * share : (index + 1) * share])} for index in range(parallel)]


def _share_of_cpu(wishes: Sequence[DeviceWish], parallel: int) -> dict[str, str]:
    """The share of the memory that is free now, and of the cores."""
    environment = {MEMORY_SHARE: str(free_memory_bytes("cpu") // parallel)}
    if not any(wish.has_threads for wish in wishes) and "OMP_NUM_THREADS" not in os.environ:
        environment["OMP_NUM_THREADS"] = str(max(1, num_cores() // parallel))
    return environment


def visible_gpus() -> list[str]:
    """The names by which CUDA_VISIBLE_DEVICES selects the GPUs that this process may use."""
    count = count_gpus()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in visible.split(",")] if visible else [str(index) for index in range(count)]
    return names[:count]
