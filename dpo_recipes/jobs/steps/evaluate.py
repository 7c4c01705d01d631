"""A step that evaluates: the models of other steps and others, on the same held-out prompts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dpo_recipes.errors import Finding
from dpo_recipes.evaluate.result import EvaluationResult
from dpo_recipes.evaluation_run import run_evaluation
from dpo_recipes.jobs.steps.answers import AnswersStep
from dpo_recipes.jobs.steps.base import Figure, Product
from dpo_recipes.recipe.compose import Composed
from dpo_recipes.recipe.launch_checks import is_installed
from dpo_recipes.recipe.schema.evaluate import BASE, Evaluate
from dpo_recipes.report.table import Table
from dpo_recipes.run_dir import RunDirectory

_LIBRARIES = {"sacrebleu": "sacrebleu", "rouge_score": "rouge-score"}
"""The modules of the extra `evaluate`, with the names of their packages."""


class EvaluateStep(AnswersStep):
    """An evaluation of models on the same held-out prompts (docs/evaluation.md)."""

    kind = "evaluate"
    section = Evaluate
    compute = staticmethod(run_evaluation)

    def check_section(self, section: Evaluate, composed: Composed) -> Iterator[Finding]:
        """R316: the libraries of BLEU and ROUGE-L are not installed."""
        lacking = [name for module, name in _LIBRARIES.items() if not is_installed(module)]
        if section.overlap and lacking:
            yield Finding(
                "R316",
                f"{' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} not installed",
                composed.where(("overlap",), key=True),
                "BLEU and ROUGE-L come from sacrebleu and rouge-score",
                "pip install 'dpo-recipe[evaluate]', or leave them out with `overlap: false`",
                "warning",
            )

    def makes(self, settings: Evaluate) -> Product:
        """Measurements, which no other step uses."""
        return Product("scores")

    def product_path(self, run: RunDirectory, settings: Evaluate) -> Path:
        """The result."""
        return run.result

    def figures(self, run: RunDirectory) -> list[Figure]:
        """The mean rewards of each model beside those of the base, if it is compared with it; without rewards, the
        first of its other values."""
        from dpo_recipes.evaluate.measures import SHOWN_FIRST  # loads numpy, which checks do not need
        from dpo_recipes.report.evaluation_tables import main_rewards, metric_of

        models = EvaluationResult.read(run.result).models
        base = next((model.metrics for model in models if model.name == BASE), {})
        shown = [model for model in models if model.metrics is not base] or models
        found = []
        for model in shown:
            for key in main_rewards(model.metrics) or [key for key in SHOWN_FIRST if key in model.metrics]:
                metric, value = metric_of(key), model.metrics[key].value
                other = base[key].value if key in base and model.metrics is not base else None
                name, label = key, metric.label
                if len(shown) > 1:  # a single one has another name in each round
                    name, label = f"{model.name}/{key}", f"{label} of {model.name}"
                text, other_text = metric.format(value), "" if other is None else metric.format(other)
                found.append(Figure(name, label, value, text, other, other_text))
        return found

    def tables(self, run: RunDirectory) -> list[Table]:
        """The values of each model, and the comparisons."""
        from dpo_recipes.report.evaluation_tables import list_evaluation_tables  # loads numpy

        return list_evaluation_tables(EvaluationResult.read(run.result))

    def shown_at_end(self, run: RunDirectory) -> tuple[list[str], list[Table]]:
        """Whether mean rewards differ by more than chance explains; the values of all models and the win-rates."""
        from dpo_recipes.report.evaluation_tables import list_main_tables, list_verdicts  # loads numpy

        result = EvaluationResult.read(run.result)
        return list_verdicts(result), list_main_tables(result)

    def describe(self, settings: Evaluate) -> str:
        """The number of models and what they are compared with."""
        count = len(settings.models)
        against = f", against {settings.against}" if settings.against else ""
        return f"{count} model{'s' * (count != 1)}{against}"


KIND = EvaluateStep()
