"""Describes this machine. Loads no torch, except in `describe_torch`."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

CONTROL_GROUPS = Path("/sys/fs/cgroup")
PACKAGES = (
    "dpo-recipe",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "tokenizers",
    "safetensors",
    "bitsandbytes",
    "deepspeed",
)


def describe_machine() -> dict[str, Any]:
    """Operating system, processor, memory and GPUs, as plain data."""
    import psutil

    return {
        "machine": f"{cpu_name()}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": gpu_names(),
        "python": platform.python_version(),
    }


def cpu_name() -> str:
    """The processor's marketing name, or its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cpu_flags() -> list[str]:
    """The processor's flags in /proc/cpuinfo; empty if there is no such file."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    return next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])


def gpu_names() -> list[str]:
    """NVIDIA GPUs as `name, memory` lines of nvidia-smi; empty if there is none."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return []
    # Its exit code is not 0 where one of several cannot be reached.
    return [line for line in done.stdout.splitlines() if line.endswith("MiB")]


def device_kind() -> Literal["cuda", "mps", "cpu"]:
    """The kind of the best device of this machine, as far as it is known without torch."""
    if gpu_names():
        return "cuda"
    return "mps" if platform.system() == "Darwin" and platform.machine() == "arm64" else "cpu"


def package_versions() -> dict[str, str]:
    """Versions of the packages a run depends on, those that are installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def describe_torch() -> dict[str, Any]:
    """Devices and precisions that torch supports here. Imports torch, which takes seconds."""
    import torch

    cuda = torch.cuda.is_available()
    devices = [
        {
            "name": torch.cuda.get_device_name(index),
            "capability": ".".join(map(str, torch.cuda.get_device_capability(index))),
            "memory_bytes": torch.cuda.get_device_properties(index).total_memory,
        }
        for index in range(torch.cuda.device_count() if cuda else 0)
    ]
    return {
        "device": "cuda" if cuda else "mps" if torch.backends.mps.is_available() else "cpu",
        "cuda_devices": devices,
        "bfloat16": torch.cuda.get_device_capability()[0] >= 8 if cuda else False,
        "cpu_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


MEMORY_SHARE = "DPO_RECIPE_MEMORY_BYTES"
"""The variable with the bytes of this machine's memory that a run may use, if others are executed at the same time."""


def free_memory_bytes(kind: str) -> int:
    """Memory that a new process can use on this machine's `cuda`, `mps` or `cpu` device: what is free, and where runs
    share the memory, not more than this run's share."""
    import psutil

    if kind == "cuda":
        import torch

        return torch.cuda.mem_get_info()[0]
    share = int(os.environ.get(MEMORY_SHARE, sys.maxsize))
    if kind == "mps":
        from dpo_recipes.hardware.profiles import mps_usable_fraction

        total = psutil.virtual_memory().total
        return min(int(total * mps_usable_fraction(total)), share)
    free, limit = psutil.virtual_memory().available, _container_limit_bytes()
    return min(free, share) if limit is None else min(free, share, limit)


def _container_limit_bytes() -> int | None:
    """Memory that the control groups of this process allow it, or None without a limit."""
    left = []
    for folder in control_groups():
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            with contextlib.suppress(OSError, ValueError):  # `max` means no limit
                in_use = int((folder / used).read_text()) - _reclaimable_bytes(folder)
                left.append(int((folder / limit).read_text()) - in_use)
    return min(left, default=None)


def _reclaimable_bytes(folder: Path) -> int:
    """Memory that the kernel counts as used but reclaims on demand: its file cache."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = (folder / "memory.stat").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    return 0


def num_out_of_memory_kills() -> int:
    """How often the kernel has killed a process of this control group for lack of memory; 0 if unknown."""
    counts = [0]
    for folder in control_groups():
        for name in ("memory.events", "memory.oom_control"):
            with contextlib.suppress(OSError):
                lines = (folder / name).read_text().splitlines()
                counts += [int(line.split()[1]) for line in lines if line.startswith("oom_kill ")]
    return max(counts)


def num_cores() -> int:
    """Cores that this process may use: those of its affinity mask, limited by the CPU quota of its control groups.

    A container with a quota of two cores on a machine with 64 sees 64; one thread for each would slow it down.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = []
    for folder in control_groups("cpu"):
        with contextlib.suppress(OSError, ValueError):  # `max` means no limit
            quota, period = (folder / "cpu.max").read_text().split()
            quotas.append(int(quota) / int(period))
        with contextlib.suppress(OSError, ValueError):
            quota = int((folder / "cpu.cfs_quota_us").read_text())
            if quota > 0:  # -1: no limit
                quotas.append(quota / int((folder / "cpu.cfs_period_us").read_text()))
    return max(1, min([bound, *map(math.ceil, quotas)]))


def control_groups(controller: str = "memory") -> list[Path]:
    """The folders of this process's control group (version 2, or version 1 of a controller) and its parents."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    own = [line.split(":", 2) for line in lines]
    roots = {"": CONTROL_GROUPS, controller: CONTROL_GROUPS / controller}
    groups = [roots[n] / path.lstrip("/") for _, names, path in own for n in names.split(",") if n in roots]
    # In a container that sees its own group as the root, the path that the kernel reports does not exist.
    return [folder for group in groups for folder in (group, *group.parents) if folder.is_relative_to(CONTROL_GROUPS)]


def peak_memory_bytes() -> int:
    """Peak memory of this process: that of its allocator on CUDA, else its largest resident set."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_reserved()
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024
