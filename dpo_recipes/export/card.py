"""Renders the model card: base, data, recipe and measured results."""

from __future__ import annotations

from importlib import resources

from jinja2 import Environment

from dpo_recipes.engine.engine_trainer import is_trained_by_trl
from dpo_recipes.evaluate.subsets import list_subset_tables
from dpo_recipes.model.build import ModelBundle
from dpo_recipes.model.heads import is_encoder
from dpo_recipes.objectives import objective_of
from dpo_recipes.objectives.metric import Metric
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.run_result import RunResult


def render_card(recipe: Recipe, result: RunResult, bundle: ModelBundle) -> str:
    """The README.md of the saved model, with the front matter that the hub reads."""
    template = resources.files("dpo_recipes.export").joinpath("model_card.md.jinja").read_text(encoding="utf-8")
    environment = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters["code"] = lambda text: f"`{text}`"
    environment.filters["cell"] = lambda text: text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
    objective = objective_of(recipe)
    return environment.from_string(template).render(
        recipe=recipe,
        result=result,
        objective=objective,
        is_encoder=is_encoder(bundle.policy.config),
        is_trained_by_trl=is_trained_by_trl(objective),
        title=objective.title(recipe.objective),
        metrics_note=objective.describe_metrics(recipe.objective),
        rows=[row for metric in objective.metrics if (row := _compare(metric, result))],
        subsets=list_subset_tables(result, objective),
        is_hub_base=not recipe.model.path.startswith(("/", "pypi:")),
        gguf_file=bundle.location.gguf_file,
        quantization=recipe.model.quantization,
        turn_ends=bundle.tokenizer.convert_ids_to_tokens(sorted(bundle.chat.end_ids)),
    )


def _compare(metric: Metric, result: RunResult) -> dict[str, str] | None:
    """A row of the table of results, or None for a metric that neither the base nor the tuned model has."""
    base, tuned = (part.get(f"eval_{metric.key}") for part in (result.base_metrics, result.metrics))
    if base is None and tuned is None:
        return None
    return {"label": metric.label, "key": metric.key, "base": metric.format(base), "tuned": metric.format(tuned)}
