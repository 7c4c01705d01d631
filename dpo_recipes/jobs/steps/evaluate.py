"""A step that evaluates: the models of other steps and others, on the same held-out prompts."""

from __future__ import annotations

from pathlib import Path

from dpo_recipes.evaluate.result import EvaluationResult
from dpo_recipes.evaluation_run import run_evaluation
from dpo_recipes.jobs.steps.answers import AnswersStep
from dpo_recipes.jobs.steps.base import Figure, Product
from dpo_recipes.recipe.schema.evaluate import Evaluate
from dpo_recipes.report.table import Table
from dpo_recipes.run_dir import RunDirectory


class EvaluateStep(AnswersStep):
    """An evaluation of models on the same held-out prompts (docs/evaluation.md)."""

    kind = "evaluate"
    section = Evaluate
    compute = staticmethod(run_evaluation)

    def makes(self, settings: Evaluate) -> Product:
        """Measurements, which no other step uses."""
        return Product("scores")

    def product_path(self, run: RunDirectory, settings: Evaluate) -> Path:
        """The result."""
        return run.result

    def figures(self, run: RunDirectory) -> list[Figure]:
        """The first values of each model."""
        from dpo_recipes.evaluate.measures import REWARD, SHOWN_FIRST  # loads numpy, which checks do not need
        from dpo_recipes.report.evaluation_tables import metric_of

        found = []
        for model in EvaluationResult.read(run.result).models:
            for key in (key for key in model.metrics if key.startswith(REWARD) or key in SHOWN_FIRST):
                metric, value = metric_of(key), model.metrics[key].value
                text = metric.format(value)
                found.append(Figure(f"{model.name}/{key}", f"{metric.label}, {model.name}", value, text))
        return found

    def tables(self, run: RunDirectory) -> list[Table]:
        """The values of each model, and the comparisons."""
        from dpo_recipes.report.evaluation_tables import list_evaluation_tables  # loads numpy

        return list_evaluation_tables(EvaluationResult.read(run.result))

    def describe(self, settings: Evaluate) -> str:
        """The number of models and what they are compared with."""
        count = len(settings.models)
        against = f", against {settings.against}" if settings.against else ""
        return f"{count} model{'s' * (count != 1)}{against}"


KIND = EvaluateStep()
