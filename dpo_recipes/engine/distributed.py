"""The processes of one run and how they share the model: they join a group, agree, and gather sharded weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from dpo_recipes.errors import RunError
from dpo_recipes.hardware.rules import supports_processes, supports_strategy
from dpo_recipes.launch.files import LaunchPlan
from dpo_recipes.launch.ranks import Rank
from dpo_recipes.model.precision import choose_device, describe_device
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.strategies import IN_RULES

_ONLY_RANK = Rank()


@dataclass(frozen=True)
class DistributedContext:
    """The processes of a run and the strategy by which they share the model, seen from one of them.

    With one process no call communicates. Without a plan, each process has the whole model.
    """

    process: Rank = _ONLY_RANK
    launch: LaunchPlan | None = None

    @property
    def rank(self) -> int:
        """The number of this process."""
        return self.process.index

    @property
    def local_rank(self) -> int:
        """The number of this process among those of its machine."""
        return self.process.local_index

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes results."""
        return self.process.is_main

    @property
    def num_processes(self) -> int:
        """The number of processes."""
        return self.process.num_processes

    @property
    def strategy(self) -> str:
        """The strategy by which they share the model."""
        return self.launch.strategy if self.launch else "ddp"

    @property
    def shards_weights(self) -> bool:
        """Whether each process holds a shard of the weights, so that a forward pass needs all processes."""
        return self.launch is not None and self.launch.shards_weights

    def describe(self) -> str:
        """A description of processes and strategy."""
        if self.num_processes == 1 and self.strategy == "ddp":
            return "1"
        return f"{self.num_processes} with {self.strategy}"

    def wait(self) -> None:
        """Return when all processes have called this."""
        self.total([0.0])

    def total(self, numbers: Sequence[float]) -> list[float]:
        """Sums over all processes, number by number."""
        return self._reduce(numbers, dist.ReduceOp.SUM)

    def highest(self, numbers: Sequence[float]) -> list[float]:
        """The largest of each number among all processes."""
        return self._reduce(numbers, dist.ReduceOp.MAX)

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any process; the answer is the same in all."""
        return bool(self.highest([float(flag)])[0])

    def gather(self, value: Any) -> list[Any]:
        """The plain value of each process, in the order of ranks."""
        if self.num_processes == 1:
            return [value]
        values: list[Any] = [None] * self.num_processes
        dist.all_gather_object(values, value)
        return values

    def share(self, value: Any) -> Any:
        """The first process's value, in all of them."""
        if self.num_processes == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    @contextmanager
    def one_first(self) -> Iterator[None]:
        """Let the first process of each machine run the block before the others, which then find its results."""
        if self.local_rank != 0:
            self.wait()
        yield
        if self.local_rank == 0:
            self.wait()

    def _reduce(self, numbers: Sequence[float], operation: Any) -> list[float]:
        if self.num_processes == 1:
            return list(numbers)
        tensor = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(tensor, op=operation)  # on the CPU, for which the group has gloo beside NCCL
        return tensor.tolist()


SINGLE_PROCESS = DistributedContext()
"""A single process that was not started together with others."""


def join(rank: Rank, recipe: Recipe, expected: int) -> DistributedContext:
    """Join the process group, which accelerate and DeepSpeed then use too.

    Raises `RunError` M507 (no GPU for this process), T620 (another number of processes than the run is planned for)
    and T621 (the strategy does not work on this device).
    """
    if rank.num_processes != expected:
        raise RunError.of(
            "T620",
            f"the run is planned for {expected} processes, and {rank.num_processes} were started",
            why="each process would compute another part of a step than planned",
            fix="use the command in plan.json, or plan the run again with `--num-processes`",
        )
    device = choose_device(recipe.hardware.device)
    _check_device(device, rank, recipe.launch.strategy)
    if not rank.is_joined:
        return DistributedContext(rank)
    if device == "cuda":
        torch.cuda.set_device(rank.local_index)
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        timeout = timedelta(minutes=recipe.launch.timeout_minutes)
        dist.init_process_group(backend, timeout=timeout)
    return DistributedContext(rank)


def leave(distributed: DistributedContext) -> None:
    """Leave the process group."""
    if distributed.process.is_joined and dist.is_initialized():
        dist.destroy_process_group()


def _check_device(device: str, rank: Rank, strategy: str) -> None:
    present = torch.cuda.device_count() if device == "cuda" else rank.processes_here
    if rank.local_index >= present:
        raise RunError.of(
            "M507",
            f"{rank.processes_here} processes on this machine need as many GPUs, and torch sees {present}",
            why="each process trains on a GPU of its own",
            fix="start fewer with `--num-processes`, the effective batch stays the same; or look at "
            "CUDA_VISIBLE_DEVICES",
        )
    described = describe_device(device)
    verdicts = [supports_processes(described, rank.num_processes)]
    if strategy in IN_RULES:
        verdicts.append(supports_strategy(described, IN_RULES[strategy]))
    for verdict in verdicts:
        if not verdict.allowed:
            raise RunError.of(
                "T621",
                f"{rank.num_processes} processes with `{strategy}` cannot train on {described.name}",
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


@contextmanager
def whole_weights(trainer: Any, distributed: DistributedContext) -> Iterator[dict[str, Any] | None]:
    """A context in which the first process has all weights of the trainer's model: in the model itself, or with FSDP in
    the yielded state. All processes must enter it."""
    if distributed.strategy == "deepspeed-zero3":
        from deepspeed import zero  # pyright: ignore[reportMissingImports]  (an extra)

        with zero.GatheredParameters(list(trainer.model.parameters())):
            yield None
    elif distributed.strategy == "fsdp":
        yield trainer.accelerator.get_state_dict(trainer.model_wrapped)
    else:
        yield None
