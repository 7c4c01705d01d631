"""Chains whose steps are computed by a function instead of a model, for tests of everything around them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dpo_recipes.jobs import work
from dpo_recipes.jobs.chain import FinishedChain, run_chain
from dpo_recipes.jobs.chain_file import ValidatedChain, validate_file
from dpo_recipes.jobs.chain_result import ChainResult
from dpo_recipes.jobs.steps import train
from dpo_recipes.recipe.dump import dump_recipe
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.validate import Validated
from dpo_recipes.run_dir import MODEL_FOLDER, RunDirectory
from dpo_recipes.run_result import RunResult
from dpo_recipes.workflow import RunOptions

DATA = "data: {train: [{path: owner/pairs, limit: 100}], eval: {fraction: 0.1}}"
CHAIN = f"""\
schema: 1
name: job
steps:
  sft:
    model: {{path: owner/model}}
    {DATA}
    objective: {{kind: sft}}
  dpo:
    model: {{path: step:sft, adapter: {{kind: lora}}}}
    {DATA}
    training: {{learning_rate: 1e-5}}
"""


def write_model(folder: Path, content: str = "weights") -> None:
    """What the checks of a recipe look for in the folder of a model."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "model.safetensors").write_text(content, encoding="utf-8")


@dataclass
class FakeSteps:
    """Replaces the execution of training steps. `made` gives the content of the model that a recipe makes, or raises
    the error of its run."""

    folder: Path
    made: Callable[[Recipe], str] = lambda recipe: f"{recipe.training.learning_rate} {recipe.training.seed}"
    executed: list[str] = field(default_factory=list)
    """The names of the recipes that were executed, in their order."""
    recipes: dict[str, Recipe] = field(default_factory=dict)
    """The last recipe of each name."""
    events: list[dict[str, Any]] = field(default_factory=list)

    def execute(self, validated: Validated, on_event: Any, options: Any = None, *, directory: RunDirectory) -> None:
        recipe = validated.recipe
        self.executed.append(recipe.name)
        self.recipes[recipe.name] = recipe
        directory.path.mkdir(parents=True, exist_ok=True)
        directory.resolved_recipe.write_text(dump_recipe(recipe), encoding="utf-8")
        content = self.made(recipe)
        write_model(directory.path / MODEL_FOLDER, content)
        metrics = {"eval_loss": 0.5, "eval_mean_token_accuracy": 0.25}
        result = RunResult(status="finished", recipe=recipe.name, metrics=metrics, base_metrics={"eval_loss": 0.75})
        result.write(directory.result)

    def validate(self, text: str, *overrides: str) -> ValidatedChain:
        path = self.folder / "job.yaml"
        path.write_text(text, encoding="utf-8")
        validated = validate_file(path, [f"output_dir={self.folder / 'runs'}", *overrides])
        assert isinstance(validated, ValidatedChain)
        return validated

    def run(
        self, text: str = CHAIN, *overrides: str, resume: bool | None = None, options: RunOptions | None = None
    ) -> FinishedChain:
        """Run a chain. `executed` then has what this command did."""
        self.executed.clear()
        self.events.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train, "run_recipe", self.execute)
            patch.setattr(work, "_LOOK_EVERY_S", 0.01)
            return run_chain(self.validate(text, *overrides), self.events.append, options, resume=resume)

    @property
    def folders(self) -> list[Path]:
        """The directories of the chains."""
        return sorted(path for path in (self.folder / "runs" / "job").iterdir() if path.is_dir())

    def result(self) -> ChainResult:
        """The result of the only chain."""
        (folder,) = self.folders
        return ChainResult.read(folder / "result.json")

    def plain(self) -> dict[str, Any]:
        """The result of the only chain as plain data."""
        (folder,) = self.folders
        return json.loads((folder / "result.json").read_text(encoding="utf-8"))
