"""A step that makes preference data: answers of models to prompts, ranked by their rewards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dpo_recipes.errors import Finding
from dpo_recipes.evaluate.result import SampleResult
from dpo_recipes.evaluation_run import run_sampling
from dpo_recipes.formats import format_count, format_number
from dpo_recipes.jobs.steps.answers import AnswersStep
from dpo_recipes.jobs.steps.base import Figure, Product
from dpo_recipes.recipe.compose import Composed
from dpo_recipes.recipe.schema.sample import Sample
from dpo_recipes.report.table import Table
from dpo_recipes.run_dir import RunDirectory


class SampleStep(AnswersStep):
    """Preference data from answers of models, ranked by their rewards (docs/evaluation.md)."""

    kind = "sample"
    section = Sample
    compute = staticmethod(run_sampling)

    def check_section(self, section: Sample, composed: Composed) -> Iterator[Finding]:
        """R377: there cannot be two different answers to a prompt. R379: rounds with other prompts have no end."""
        if section.prompts == "next" and section.limit is None:
            yield Finding(
                "R379",
                "`prompts: next` needs a `limit`",
                composed.where(("prompts",), key=True),
                "without it, the first round uses all rows, and none are left for the next one",
                "write `limit`, the number of rows for each round",
            )
        if section.generate.temperature == 0 and section.answers > 1:
            yield Finding(
                "R377",
                f"the {section.answers} answers of a model to a prompt are all equal",
                composed.where(("generate", "temperature")),
                "`temperature: 0` always chooses the most probable token",
                "write a higher `temperature`, such as 1.0",
            )
        elif section.answers * len(section.models) < 2:
            yield Finding(
                "R377",
                "one model gives one answer to each prompt",
                composed.where(("answers",)),
                "a preference needs two answers",
                "write `answers: 2` or more, or name another model",
            )

    def makes(self, settings: Sample) -> Product:
        """Preference data."""
        return Product("data", num_rows=settings.limit)

    def product_path(self, run: RunDirectory, settings: Sample) -> Path:
        """The file of rows."""
        return run.sampled_rows

    def figures(self, run: RunDirectory) -> list[Figure]:
        """The number of rows and the mean rewards of each model."""
        result = SampleResult.read(run.result)
        found = [Figure("rows", "Rows", result.num_rows, format_count(result.num_rows))]
        several = len(result.models) > 1  # a single one has another name in each round
        for model in result.models:
            for name, estimate in model.rewards.items():
                label, text = f"Mean reward ({name})", format_number(estimate.value, signed=True)
                label, key = (f"{label} of {model.name}", f"{model.name}/{name}") if several else (label, name)
                found.append(Figure(key, label, estimate.value, text))
        return found

    def tables(self, run: RunDirectory) -> list[Table]:
        """What became of the prompts, and the rewards and lengths of the answers."""
        from dpo_recipes.report.sampling_tables import list_sampling_tables  # loads numpy, which checks do not need

        return list_sampling_tables(SampleResult.read(run.result))

    def describe(self, settings: Sample) -> str:
        """The number of answers and models."""
        count = len(settings.models)
        return f"{settings.answers} answers of {'a model' if count == 1 else f'{count} models each'} to each prompt"


KIND = SampleStep()
