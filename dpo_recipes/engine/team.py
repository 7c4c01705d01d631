"""The processes of a run together with what they share, and what depends on both: when the base is measured, and how
weights that are cut into pieces are put together again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dpo_recipes.engine.processes import ALONE, Processes, check_wrapped
from dpo_recipes.evaluate.metrics import evaluate_pairs
from dpo_recipes.events import EventLog
from dpo_recipes.launch.files import LaunchPlan
from dpo_recipes.recipe.strategies import SHARDS_WEIGHTS


@dataclass(frozen=True)
class Team:
    """Processes and their strategy; without a plan, one process that shares nothing."""

    processes: Processes = ALONE
    launch: LaunchPlan | None = None

    @property
    def strategy(self) -> str:
        """What they share."""
        return self.launch.strategy if self.launch else "ddp"

    @property
    def all_go_forward(self) -> bool:
        """Whether the model computes only when all processes take part, as each holds a piece of its weights."""
        return self.strategy in SHARDS_WEIGHTS

    def describe(self) -> str:
        """What is in force, in words."""
        if self.processes.count == 1 and self.strategy == "ddp":
            return "1"
        return f"{self.processes.count} with {self.strategy}"


class BaseCallback(TrainerCallback):
    """Looks at what the trainer has made of the model, and measures the untouched base.

    One process alone does that at once. With several it must wait until training begins: accelerate 1.15 marks a model
    that was evaluated as prepared (`Accelerator.prepare_model`) and then trains it without DDP, each on its own;
    and DeepSpeed and FSDP can be evaluated only in what training makes of the model.
    """

    def __init__(
        self, trainer: Any, team: Team, events: EventLog, *, evaluates: bool, known: dict[str, float] | None = None
    ) -> None:
        self.trainer = trainer
        self.team = team
        self.events = events
        self.evaluates = evaluates and known is None
        self.metrics = known or {}
        """Of the base."""
        self.waits = team.processes.count > 1 or team.strategy != "ddp"
        if not self.waits:
            self._evaluate()
        trainer.callback_handler.callbacks.insert(0, self)  # ahead of whatever computes with the model

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Raises `RunError` T620 and T621 where processes or model are not what was asked for."""
        trainer, team = self.trainer, self.team
        check_wrapped(trainer.model_wrapped, team.strategy, team.processes.count, trainer.accelerator.num_processes)
        if self.waits and not state.global_step:
            self._evaluate()

    def _evaluate(self) -> None:
        if self.evaluates:
            self.events.stage("base", "evaluating the untouched base")
            self.metrics = evaluate_pairs(self.trainer)


@contextmanager
def whole_weights(trainer: Any, team: Team) -> Iterator[dict[str, Any] | None]:
    """Within it the trainer's model has all its weights in the first process: in itself, or, with FSDP, as the state
    that is yielded. All processes must enter it."""
    if team.strategy == "deepspeed-zero3":
        from deepspeed import zero  # pyright: ignore[reportMissingImports]  (an extra)

        with zero.GatheredParameters(list(trainer.model.parameters())):
            yield None
    elif team.strategy == "fsdp":
        yield trainer.accelerator.get_state_dict(trainer.model_wrapped)
    else:
        yield None
