"""The processes of a run with their strategy, and how sharded weights are gathered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dpo_recipes.engine.processes import ALONE, Processes
from dpo_recipes.launch.files import LaunchPlan


@dataclass(frozen=True)
class Team:
    """Processes and their strategy; without a plan, one process that shares nothing."""

    processes: Processes = ALONE
    launch: LaunchPlan | None = None

    @property
    def strategy(self) -> str:
        """The strategy by which they share the model."""
        return self.launch.strategy if self.launch else "ddp"

    @property
    def all_go_forward(self) -> bool:
        """Whether a forward pass needs all processes, because each holds a shard of the weights."""
        return self.launch is not None and self.launch.shards_weights

    def describe(self) -> str:
        """A description of processes and strategy."""
        if self.processes.count == 1 and self.strategy == "ddp":
            return "1"
        return f"{self.processes.count} with {self.strategy}"


@contextmanager
def whole_weights(trainer: Any, team: Team) -> Iterator[dict[str, Any] | None]:
    """A context in which the first process has all weights of the trainer's model: in the model itself, or with FSDP in
    the yielded state. All processes must enter it."""
    if team.strategy == "deepspeed-zero3":
        from deepspeed import zero  # pyright: ignore[reportMissingImports]  (an extra)

        with zero.GatheredParameters(list(trainer.model.parameters())):
            yield None
    elif team.strategy == "fsdp":
        yield trainer.accelerator.get_state_dict(trainer.model_wrapped)
    else:
        yield None
