"""Everything that a trainer needs beside its model, data and callbacks; it is handed to the trainer's constructor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dpo_recipes.engine.distributed import SINGLE_PROCESS, DistributedContext
from dpo_recipes.engine.row_names import LocateRow
from dpo_recipes.events import EventLog
from dpo_recipes.launch.batch import max_tokens
from dpo_recipes.objectives import objective_of
from dpo_recipes.objectives.base import Objective
from dpo_recipes.recipe.schema import Recipe

if TYPE_CHECKING:
    from dpo_recipes.data.rows import Row
    from dpo_recipes.engine.callbacks.checkpoint import CheckpointCallback
    from dpo_recipes.engine.checkpoints.writer import CheckpointWriter


@dataclass(frozen=True)
class TrainingContext:
    """The recipe of a run, its processes, and the services that its trainer uses."""

    recipe: Recipe
    output_dir: Path
    """The folder of checkpoints."""
    device: str
    dtype: str
    distributed: DistributedContext = SINGLE_PROCESS
    events: EventLog | None = None
    """Receives the progress of the reference pass and notes about the model."""
    locate: LocateRow | None = None
    """Returns the location of a row in its source, for errors that name it."""
    writer: CheckpointWriter | None = None
    """Writes checkpoints; None for a trainer that is only measured."""
    checkpoint_state: CheckpointCallback | None = None
    """Decides when a checkpoint is written; None for a trainer that is only measured."""

    row_of: Callable[[str, int], Row] | None = None
    """Returns a row with its texts, by split and place."""
    reward_functions: frozenset[str] = frozenset()
    """The functions that the person has allowed as sources of rewards."""
    subsets: tuple[str, ...] = ()
    """The names of the subsets whose numbers the held-out rows have."""
    is_reproduction: bool = False
    """Whether the run does another one again, and so computes the reference anew instead of reading the cache."""

    @property
    def objective(self) -> Objective:
        """The objective of the recipe."""
        return objective_of(self.recipe)

    @property
    def max_tokens(self) -> int | None:
        """The token budget of a pass; None if micro-batches have a fixed number of rows."""
        return max_tokens(self.recipe)
