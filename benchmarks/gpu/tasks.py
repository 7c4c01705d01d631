"""The measurements of the GPU check, the most valuable first, and how one of them is executed."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import exactness
import flex
import plan_points
import speed
from context import Context


@dataclass(frozen=True)
class Task:
    """One measurement, in a process of its own."""

    part: str
    name: str
    function: str
    """`module:function`, called with the context and the arguments."""
    arguments: dict[str, Any] = field(default_factory=dict[str, Any])
    limit_s: float = 60
    """How long it may take."""
    needs_s: float = 15
    """With less time left than this it is not begun."""
    requires: tuple[str, ...] = ()
    """Packages without which it is left out."""

    @property
    def key(self) -> str:
        """How it is found again."""
        return f"{self.part}: {self.name}"


PROBE = Task("device", "device", "tasks:probe", limit_s=60)
PREDICTIONS = Task("predictions", "predictions", "plan_points:predict", limit_s=400)
_BITSANDBYTES = {"qlora": ("bitsandbytes",)}


def all_tasks(*, is_tiny: bool) -> list[Task]:
    """In the order in which they are tried."""
    return [*_sharing(is_tiny=is_tiny), *_speed(is_tiny=is_tiny), *_memory(is_tiny=is_tiny), *_others(is_tiny=is_tiny)]


def _sharing(*, is_tiny: bool) -> Iterator[Task]:
    for name in list(exactness.MODELS)[:2] if is_tiny else exactness.MODELS:
        yield Task("sharing", name, "exactness:run", {"name": name}, 60, 10)


def _speed(*, is_tiny: bool) -> Iterator[Task]:
    for name, job in (speed.TINY if is_tiny else speed.JOBS).items():
        for side in speed.SIDES:
            requires = _BITSANDBYTES.get(job["adapter"], ())
            yield Task("speed", f"{name}, {side}", "speed:run", {"name": name, "side": side}, 75, 20, requires)


def _memory(*, is_tiny: bool) -> Iterator[Task]:
    for number, point in enumerate(plan_points.TINY if is_tiny else plan_points.POINTS):
        requires = _BITSANDBYTES.get(point["tuning"], ())
        yield Task("memory", plan_points.name_of(point), "plan_points:run", {"number": number}, 45, 10, requires)


def _others(*, is_tiny: bool) -> Iterator[Task]:
    yield Task("resume", "difference of weights", "resume:run", {}, 150, 40)
    for name in list(flex.HEADS)[:1] if is_tiny else flex.HEADS:
        yield Task("flex", name, "flex:run", {"name": name}, 75, 20)
    if not is_tiny:  # tests/e2e has the command on a CPU
        yield Task("resume", "the command", "resume:run_command", {}, 100, 30)


def execute(task: Task, context: Context) -> None:
    """Call the task's function in this process, with a cache of its own: nothing is known from an earlier one."""
    os.environ["DPO_RECIPE_CACHE"] = str(context.scratch / "caches" / slug(task.key))
    if task is PREDICTIONS:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.nice(10)
    module, _, function = task.function.partition(":")
    getattr(importlib.import_module(module), function)(context, **task.arguments)


def probe(context: Context) -> None:
    """What the device is, and its rate for matrix products."""
    import torch
    from device import matmul_flops

    device = context.device
    for name, value in {
        "name": device.name(),
        "memory_bytes": device.total_bytes(),
        "matmul_flops": matmul_flops(device),
        "dtype": device.dtype,
        "cuda": torch.version.cuda,
        "capability": torch.cuda.get_device_capability() if device.kind == "cuda" else None,
    }.items():
        context.record("device", name, value)


def slug(text: str) -> str:
    """A text as the name of a file."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
