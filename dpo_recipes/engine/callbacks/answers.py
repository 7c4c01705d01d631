"""Lets the model answer a few fixed prompts at each evaluation in training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dpo_recipes.engine.distributed import DistributedContext
from dpo_recipes.evaluate.samples import Samples
from dpo_recipes.events import EventLog
from dpo_recipes.model.build import ModelBundle
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.run_dir import read_json_lines
from dpo_recipes.run_result import StepAnswers


def answers_at_evaluations(
    recipe: Recipe, samples: Samples, bundle: ModelBundle, path: Path, events: EventLog, distributed: DistributedContext
) -> list[AnswersCallback]:
    """The callback that writes the answers to `path`, if the recipe asks for it."""
    count = recipe.evaluation.samples_each_eval
    return [AnswersCallback(samples, count, bundle, path, events, distributed)] if count else []


class AnswersCallback(TrainerCallback):
    """Appends the answers of each evaluation after a step to a file.

    They are decoded greedily, and `EngineTrainer.evaluate`, which calls this, restores the random state: training is
    the same with and without them.
    """

    def __init__(
        self,
        samples: Samples,
        count: int,
        bundle: ModelBundle,
        path: Path,
        events: EventLog,
        distributed: DistributedContext,
    ) -> None:
        self.samples, self.count, self.bundle = samples, count, bundle
        self.path, self.events, self.distributed = path, events, distributed
        self._is_training = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the evaluation of the tuned model alone: that model answers all prompts."""
        self._is_training = False

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Answer. A forward pass of sharded weights needs all processes; otherwise the first one answers alone."""
        takes_part = self.distributed.is_main or self.distributed.shards_weights
        if not (self._is_training and state.global_step and takes_part):
            return
        self.events.emit("alive")
        answers = self.samples.answer(kwargs["model"], self.bundle, self.count)
        self.events.emit("alive")
        if self.distributed.is_main:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, "answers": answers}) + "\n")


def read_answers(path: Path) -> list[StepAnswers]:
    """The answers by step. A resumed run answers again at the steps that it repeats; its later answers count."""
    rows = {row["step"]: row["answers"] for row in read_json_lines(path) if isinstance(row, dict)}
    return [StepAnswers(step=step, answers=answers) for step, answers in sorted(rows.items())]
