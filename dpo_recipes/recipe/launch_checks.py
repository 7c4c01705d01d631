"""Checks of the `launch` section: the number of processes, the strategy, offloading, and settings of the libraries."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterator
from typing import Any

from dpo_recipes.errors import Finding
from dpo_recipes.recipe.compose import Composed
from dpo_recipes.recipe.device_checks import described_device
from dpo_recipes.recipe.launch_keys import ACCELERATE, DEEPSPEED, DEEPSPEED_ZERO, FSDP, SAID_ELSEWHERE
from dpo_recipes.recipe.load import DataPath
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.strategies import IN_RULES, ZERO


def is_installed(package: str) -> bool:
    """Whether a library can be imported. The library is not imported by this check."""
    return importlib.util.find_spec(package) is not None


_KNOWN = {
    "deepspeed": {(): DEEPSPEED, ("zero_optimization",): DEEPSPEED_ZERO},
    "fsdp": {(): FSDP},
    "accelerate": {(): ACCELERATE},
}


def check_counts(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R341: the processes are not divisible by the nodes; R345: the backend starts only one process; R343: the device
    does not support several processes."""
    launch = recipe.launch
    processes, at = launch.num_processes, ("launch", "num_processes")
    if processes == "auto":
        processes = launch.num_nodes
    if processes % launch.num_nodes:
        yield Finding(
            "R341",
            f"{processes} processes cannot be spread evenly over {launch.num_nodes} nodes",
            composed.where(at),
            "every node starts the same number of processes, one for each of its devices",
            f"write a multiple of {launch.num_nodes}, or another `num_nodes`",
        )
    if launch.backend == "local" and processes > 1:
        yield Finding(
            "R345",
            f"`backend: local` starts one process, but {processes} are requested",
            composed.where(("launch", "backend")),
            "it starts the worker without a launcher, which is needed to connect several processes",
            "write `backend: auto` (or torchrun), or `num_processes: 1`",
        )
    device = described_device(recipe)
    if device is None or processes == 1:
        return
    from dpo_recipes.hardware.rules import supports_processes

    verdict = supports_processes(device, processes)
    if not verdict.allowed:
        what = f"{processes} processes cannot train together on {device.name}"
        yield Finding("R343", what, composed.where(at), f"{verdict.why} ({verdict.source})", verdict.fix)


def check_strategy(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R343: the device or the base does not support the strategy; R316: DeepSpeed is not installed."""
    strategy, at = recipe.launch.strategy, ("launch", "strategy")
    if strategy in ("auto", "ddp"):
        return
    if strategy.startswith("deepspeed") and not is_installed("deepspeed"):
        yield Finding(
            "R316",
            "deepspeed is not installed",
            composed.where(at),
            f"`{strategy}` is a strategy of DeepSpeed",
            "pip install 'dpo-recipe[deepspeed]', or write `strategy: ddp` or `fsdp`",
        )
    from dpo_recipes.hardware.profiles import PROFILES
    from dpo_recipes.hardware.rules import supports_strategy

    # If the recipe names no device, the check still finds what no GPU supports.
    device = described_device(recipe) or PROFILES["a100-80gb"]
    quantization = recipe.model.quantization
    bits = quantization.bits if quantization else None
    verdict = supports_strategy(device, IN_RULES[strategy], bits=bits)
    if not verdict.allowed:
        what, fix = f"`{strategy}` does not work on {device.name}", verdict.fix
        if bits is not None and supports_strategy(device, IN_RULES[strategy]).allowed:
            what = f"`{strategy}` does not work with a base of {bits} bits"
            fix = "write `strategy: ddp`, with which each process has its whole base, or remove `model.quantization`"
        yield Finding("R343", what, composed.where(at), f"{verdict.why} ({verdict.source})", fix)


def check_offload(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R342: the strategy does not support the requested offload."""
    launch, where = recipe.launch, composed.where(("launch", "offload"))
    if launch.offload == "none":
        return
    if launch.strategy in ("auto", "ddp"):
        yield Finding(
            "R342",
            f"`offload: {launch.offload}` needs a strategy that supports it",
            where,
            "with `ddp` every process keeps everything on its device, and `auto` chooses `ddp` if it fits",
            "write `strategy: deepspeed-zero2` (the optimizer), `fsdp` or `deepspeed-zero3` (all), or remove `offload`",
        )
    elif launch.offload == "all" and launch.strategy in ("deepspeed-zero1", "deepspeed-zero2"):
        yield Finding(
            "R342",
            f"`{launch.strategy}` cannot keep weights in CPU memory",
            where,
            "each device has all weights; only ZeRO-3 and FSDP shard them",
            "write `offload: optimizer`, or `strategy: deepspeed-zero3`",
        )
    elif launch.offload == "optimizer" and launch.strategy == "fsdp":
        yield Finding(
            "R342",
            "FSDP keeps either everything in CPU memory or nothing",
            where,
            "its CPU offload moves weights, gradients and optimizer state together",
            "write `offload: all`, or `strategy: deepspeed-zero3`",
        )


def check_extras(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R344: further settings of the libraries are unknown, do not belong to the strategy, or have a field of their
    own."""
    launch = recipe.launch
    strategies = {"deepspeed": (*ZERO, "auto"), "fsdp": ("fsdp", "auto")}
    for section in ("deepspeed", "fsdp", "accelerate"):
        extra = getattr(launch, section)
        if extra and launch.strategy not in strategies.get(section, (launch.strategy,)):
            yield Finding(
                "R344",
                f"`launch.{section}` does nothing with `strategy: {launch.strategy}`",
                composed.where(("launch", section), key=True),
                "no library of this strategy reads these settings",
                f"remove it, or write `strategy: {strategies[section][0]}`",
            )
        yield from _check_keys(section, extra, (), composed)


def _check_keys(section: str, extra: dict[str, Any], path: DataPath, composed: Composed) -> Iterator[Finding]:
    known = _KNOWN[section].get(path)
    for key, value in extra.items():
        here = (*path, key)
        elsewhere = SAID_ELSEWHERE[section].get(".".join(map(str, here)))
        where = composed.where(("launch", section, *here), key=True)
        if elsewhere is not None:
            yield Finding(
                "R344",
                f"`{key}` cannot be set in `launch.{section}`",
                where,
                f"it is set by {elsewhere}, and two places could contradict each other",
                "remove it, and set it there",
            )
        elif known is not None and key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            yield Finding(
                "R344",
                f"unknown key `{key}` in `launch.{section}`",
                where,
                f"the keys are {', '.join(sorted(known)[:8])}{', …' if len(known) > 8 else ''}",
                f"did you mean `{near[0]}`?" if near else "remove it, or correct it",
            )
        elif isinstance(value, dict):
            yield from _check_keys(section, value, here, composed)


RULES = (check_counts, check_strategy, check_offload, check_extras)
