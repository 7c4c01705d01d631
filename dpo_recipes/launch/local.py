"""Starts one worker process on this machine: the parent checks and supervises, the worker trains."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from dpo_recipes.hardware.machine import gpu_names, num_cores
from dpo_recipes.launch.job import Launcher, LaunchRequest, ProcessJob, request_arguments, spawn
from dpo_recipes.recipe.schema import Recipe

# glibc requests the memory of large tensors from the system for each use and returns it: on a CPU, page faults took
# half the time of a training step (2 million a step; benchmarks/allocator.py, docs/adr/0006). Therefore memory is kept,
# in pages of 2 MiB if the kernel provides them; only the free end of the heap is returned, and blocks that were larger
# than any free one. Documented in mallopt(3), the glibc manual ("Memory Allocation Tunables") and torch's
# c10/core/impl/alloc_cpu.cpp, which aligns tensors of 2 MiB and more to such a page, so that fewer free blocks are
# wasted.
_COMMON = {
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.tcache_count=0",
    "THP_MEM_ALLOC_ENABLE": "1",
}
CPU_ALLOCATOR_LARGE_PAGES = {
    **_COMMON,
    "MALLOC_MMAP_MAX_": "1000000",
    "MALLOC_MMAP_THRESHOLD_": "8388608",
    "MALLOC_TRIM_THRESHOLD_": "4194304",
    "MALLOC_TOP_PAD_": "1048576",
}
CPU_ALLOCATOR_SMALL_PAGES = {
    **_COMMON,
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "16777216",
}
_OF_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
"""Variables in which a launcher passes a process its rank. Some platforms set them for a whole pod, where they describe
no worker."""
_LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def cpu_allocator() -> dict[str, str]:
    """The allocator's settings for a worker on a CPU; those for large pages if the kernel provides them on request."""
    try:
        has_large_pages = "[never]" not in _LARGE_PAGES.read_text()
    except OSError:
        has_large_pages = False
    return CPU_ALLOCATOR_LARGE_PAGES if has_large_pages else CPU_ALLOCATOR_SMALL_PAGES


def worker_environment(recipe: Recipe, processes_here: int = 1) -> dict[str, str]:
    """This process's environment, with the variables that each worker of this recipe on a machine needs. A person's own
    settings of allocator and threads are kept."""
    environment = device_environment(recipe.hardware.device, recipe.launch.num_threads, processes_here)
    if recipe.tracking.project or "WANDB_PROJECT" not in environment:
        # transformers' W&B callback reads its project from here only.
        environment["WANDB_PROJECT"] = recipe.tracking.project or recipe.name
    return environment


def device_environment(device: str, num_threads: int | None = None, processes_here: int = 1) -> dict[str, str]:
    """This process's environment, with the allocator's settings and the threads for workers on a device."""
    allocator = cpu_allocator() if device == "cpu" or not gpu_names() else {}
    own = {name: value for name, value in os.environ.items() if name not in _OF_LAUNCHERS}
    environment = {**allocator, **own, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "true"}
    if num_threads:
        environment["OMP_NUM_THREADS"] = str(num_threads)
    elif processes_here > 1 or num_cores() < (os.cpu_count() or 1):
        # Otherwise torch chooses; on some processors it distinguishes cores from hyper-threads.
        environment.setdefault("OMP_NUM_THREADS", str(max(1, num_cores() // processes_here)))
    return environment


class LocalLauncher(Launcher):
    """One process of this machine, without a process group."""

    def command(self, request: LaunchRequest) -> list[str]:
        """The worker itself."""
        return [sys.executable, *request_arguments(request)]

    def start(self, request: LaunchRequest) -> ProcessJob:
        """Start the worker."""
        return ProcessJob(spawn(request.run, self.command(request), worker_environment(request.recipe)))


LAUNCHER = LocalLauncher()
