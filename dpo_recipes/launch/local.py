"""One worker process on this machine, also for one device: the parent checks and supervises, the worker trains."""

from __future__ import annotations

import os
import subprocess
import sys

from dpo_recipes.hardware.machine import gpu_names
from dpo_recipes.launch.job import Order, ProcessJob
from dpo_recipes.recipe.schema import Recipe

# glibc gives memory of large tensors back to the system after each use and takes it again for the next: on a CPU,
# half the time of a training step went into page faults (2 million a step; benchmarks/allocator.py). These keep it.
# Documented in mallopt(3) and the glibc manual, "Memory Allocation Tunables".
CPU_ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.tcache_count=0",
}


def command(order: Order) -> list[str]:
    """The command that executes a prepared run directory; a person can run it by hand."""
    flags = ["--trust-remote-code"] if order.trust_remote_code else []
    return [sys.executable, "-m", "dpo_recipes.worker", str(order.run.path), *flags]


def worker_environment(recipe: Recipe) -> dict[str, str]:
    """This process's environment with what a worker of this recipe needs; a person's own allocator settings stay."""
    allocator = CPU_ALLOCATOR if recipe.hardware.device == "cpu" or not gpu_names() else {}
    environment = {**allocator, **os.environ, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "true"}
    if recipe.launch.num_threads:
        environment["OMP_NUM_THREADS"] = str(recipe.launch.num_threads)
    if recipe.tracking.project or "WANDB_PROJECT" not in environment:
        # transformers' W&B callback reads its project from here only.
        environment["WANDB_PROJECT"] = recipe.tracking.project or recipe.name
    return environment


def start(order: Order) -> ProcessJob:
    """Start the worker in a session of its own, so that a terminal's Ctrl-C reaches it only through the parent."""
    with order.run.log.open("ab") as log:
        process = subprocess.Popen(
            command(order),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=worker_environment(order.recipe),
            start_new_session=True,
        )
    return ProcessJob(process)
