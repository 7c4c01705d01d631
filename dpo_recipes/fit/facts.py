"""What is known of a job before it trains, and what follows from it by arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dpo_recipes.launch.batch import batch_of
from dpo_recipes.objectives import objective_of
from dpo_recipes.recipe.schema import Recipe


@dataclass(frozen=True)
class JobFacts:
    """A recipe with facts about its data and model. A fact that is not known (yet) is None."""

    recipe: Recipe
    num_train_rows: int | None = None
    num_eval_rows: int | None = None
    num_test_rows: int | None = None
    truncated_share: float | None = None
    """Of the training rows, those cut to `data.max_length`; between 0 and 1."""
    dropped_overlong_share: float | None = None
    """Of the training rows, those dropped because of `data.max_length`; between 0 and 1."""
    num_desirable: int | None = None
    """Of the training rows, those with a good answer; None without labels."""
    num_undesirable: int | None = None
    trainable_parameters: int | None = None
    num_processes: int = 1

    @property
    def is_full(self) -> bool:
        """Whether every weight is trained, without an adapter."""
        return self.recipe.model.adapter is None

    @property
    def rows_per_step(self) -> int:
        """The effective batch: rows that one optimizer step sees."""
        return batch_of(self.recipe, self.num_processes).rows_per_step

    @property
    def num_epoch_steps(self) -> int | None:
        """Optimizer steps of one pass over the training rows, as transformers 5.23 counts them
        (`Trainer.set_initial_training_values`): a rest of a batch is a step."""
        if not self.num_train_rows:
            return None
        training = self.recipe.training
        repeats = objective_of(self.recipe).steps_on_answers(self.recipe.objective)
        if repeats > 1:
            return self.num_train_rows // self.rows_per_step * repeats
        micro_batches = math.ceil(self.num_train_rows / (training.micro_batch_size * self.num_processes))
        return math.ceil(micro_batches / training.gradient_accumulation_steps)

    @property
    def num_steps(self) -> int | None:
        """Optimizer steps of the run."""
        return self.recipe.training.num_steps(self.num_epoch_steps)

    @property
    def num_evaluations(self) -> int | None:
        """Evaluations of `training.eval_steps` before the last step."""
        return self.recipe.training.num_evaluations(self.num_epoch_steps)

    @property
    def num_passes(self) -> float | None:
        """How often each training row is seen."""
        training = self.recipe.training
        if training.max_steps is None:
            return training.num_epochs
        return None if self.num_epoch_steps is None else training.max_steps / self.num_epoch_steps

    @property
    def num_warmup_steps(self) -> int | None:
        """Steps over which the rate rises; 0 for a schedule without any."""
        return None if self.num_steps is None else self.recipe.training.num_warmup_steps(self.num_steps)
