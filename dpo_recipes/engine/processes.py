"""The processes of one run: they join a group, agree and wait, and verify that they are what was requested."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from dpo_recipes.errors import RunError
from dpo_recipes.hardware.rules import supports_processes, supports_strategy
from dpo_recipes.launch.ranks import Place
from dpo_recipes.model.precision import choose_device, describe_device
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.strategies import IN_RULES

_NO_OTHERS = Place()


@dataclass(frozen=True)
class Processes:
    """The group of processes of a run, seen from one of them. With one process no call communicates."""

    place: Place = _NO_OTHERS

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes results."""
        return self.place.is_main

    @property
    def count(self) -> int:
        """The number of processes."""
        return self.place.num_processes

    def wait(self) -> None:
        """Return when all processes have called this."""
        self.total([0.0])

    def total(self, numbers: Sequence[float]) -> list[float]:
        """Sums over all processes, number by number."""
        return self._reduce(numbers, distributed.ReduceOp.SUM)

    def highest(self, numbers: Sequence[float]) -> list[float]:
        """The largest of each number among all processes."""
        return self._reduce(numbers, distributed.ReduceOp.MAX)

    def any(self, flag: bool) -> bool:
        """Whether `mine` is true in any process; the answer is the same in all."""
        return bool(self.highest([float(flag)])[0])

    def gather(self, value: Any) -> list[Any]:
        """The plain value of each process, in the order of ranks."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values

    def share(self, value: Any) -> Any:
        """The first process's value, in all of them."""
        if self.count == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    @contextmanager
    def one_first(self) -> Iterator[None]:
        """Let the first process of each machine run the block before the others, which then find its results."""
        if self.place.local_rank != 0:
            self.wait()
        yield
        if self.place.local_rank == 0:
            self.wait()

    def _reduce(self, numbers: Sequence[float], operation: Any) -> list[float]:
        if self.count == 1:
            return list(numbers)
        tensor = torch.tensor(numbers, dtype=torch.float64)
        distributed.all_reduce(tensor, op=operation)  # on the CPU, for which the group has gloo beside NCCL
        return tensor.tolist()


ALONE = Processes()
"""A single process that was not started together with others."""


def join(place: Place, recipe: Recipe, expected: int) -> Processes:
    """Join the process group, which accelerate and DeepSpeed then use too.

    Raises `RunError` M507 (no GPU for this process), T620 (another number of processes than the run is planned for)
    and T621 (the strategy does not work on this device).
    """
    if place.num_processes != expected:
        raise RunError.of(
            "T620",
            f"the run is planned for {expected} processes, and {place.num_processes} were started",
            why="each process would compute another part of a step than planned",
            fix="use the command in plan.json, or plan the run again with `--num-processes`",
        )
    device = choose_device(recipe.hardware.device)
    _check_device(device, place, recipe.launch.strategy)
    if not place.is_joined:
        return Processes(place)
    if device == "cuda":
        torch.cuda.set_device(place.local_rank)
    if not distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        timeout = timedelta(minutes=recipe.launch.timeout_minutes)
        distributed.init_process_group(backend, timeout=timeout)
    return Processes(place)


def leave(processes: Processes) -> None:
    """Leave the process group."""
    if processes.place.is_joined and distributed.is_initialized():
        distributed.destroy_process_group()


def _check_device(device: str, place: Place, strategy: str) -> None:
    present = torch.cuda.device_count() if device == "cuda" else place.processes_here
    if place.local_rank >= present:
        raise RunError.of(
            "M507",
            f"{place.processes_here} processes on this machine need as many GPUs, and torch sees {present}",
            why="each process trains on a GPU of its own",
            fix="start fewer with `--num-processes`, the effective batch stays the same; or look at "
            "CUDA_VISIBLE_DEVICES",
        )
    described = describe_device(device)
    verdicts = [supports_processes(described, place.num_processes)]
    if strategy in IN_RULES:
        verdicts.append(supports_strategy(described, IN_RULES[strategy]))
    for verdict in verdicts:
        if not verdict.allowed:
            raise RunError.of(
                "T621",
                f"{place.num_processes} processes with `{strategy}` cannot train on {described.name}",
                why=verdict.why,
                fix=verdict.fix,
            )


def check_wrapped(model: Any, strategy: str, num_processes: int, num_joined: int) -> None:
    """Raise `RunError` T620 or T621 if the trainer has not distributed the model as requested.

    Libraries fall back silently: accelerate 1.15 turns FSDP on a CPU into plain DDP, and processes that it does not
    recognize as a group each train the model alone.
    """
    if num_joined != num_processes:
        raise RunError.of(
            "T620",
            f"{num_processes} processes were started, but the trainer counts {num_joined}",
            why="each would train alone, and all would write the same files",
            fix="this is a fault of the setup: report it with run.log and environment.json",
        )
    wanted, found = expected_class(strategy, num_processes), type(model).__name__
    if wanted is None or any(kind.__name__ == wanted for kind in type(model).__mro__):
        return
    raise RunError.of(
        "T621",
        f"`strategy: {strategy}` is not in effect: the model is a {found}, not a {wanted}",
        why="the libraries have silently fallen back to something else",
        fix="use `strategy: ddp`, or a device that supports the strategy (docs/launch.md)",
    )


def expected_class(strategy: str, num_processes: int) -> str | None:
    """The class that the trainer's model must have, or None if it is not wrapped."""
    if strategy == "ddp":
        return "DistributedDataParallel" if num_processes > 1 else None
    return "FSDPModule" if strategy == "fsdp" else "DeepSpeedEngine"
