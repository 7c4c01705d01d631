"""Render the report of a run as one self-contained HTML page."""

import json
from typing import Any

from dpo_recipes.evaluate.subsets import list_subset_tables
from dpo_recipes.finished_run import FinishedRun
from dpo_recipes.formats import format_count
from dpo_recipes.objectives import objective_of
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.report.curves import draw_curves
from dpo_recipes.report.plan_rows import PLAN_NOTE, PlanFigures, list_plan_rows, read_plan_figures
from dpo_recipes.report.sections import (
    compare_models,
    list_facts,
    list_findings,
    list_samples,
    list_splits,
    list_tiles,
)
from dpo_recipes.report.templates import load_templates
from dpo_recipes.report.verdict import write_verdict
from dpo_recipes.run_result import RunResult


def render_report(
    result: RunResult,
    recipe: Recipe,
    rows: list[dict[str, Any]],
    recipe_text: str,
    data_report: dict[str, Any],
    plan: PlanFigures | None = None,
) -> str:
    """The report as the text of one HTML file. Values that the result does not have are left out.

    Args:
        result: The run's result.
        recipe: The resolved recipe, whose objective says which metrics there are.
        rows: The rows of metrics.jsonl as the trainer logged them, in any order.
        recipe_text: The resolved recipe, as YAML.
        data_report: What the data stage kept and dropped, by split.
        plan: What was predicted before the run.
    """
    objective = objective_of(recipe)
    charts, absent = draw_curves(rows, objective.metrics)
    template = load_templates().get_template("report.html.jinja")
    page = template.render(
        result=result,
        title=objective.title(recipe.objective),
        noun=objective.row_noun,
        metrics_note=objective.describe_metrics(recipe.objective),
        verdict=write_verdict(result, objective),
        tiles=list_tiles(result, objective),
        comparison=compare_models(result, objective),
        subsets=list_subset_tables(result, objective),
        plan_rows=list_plan_rows(plan or PlanFigures()),
        plan_note=PLAN_NOTE,
        charts=charts,
        format_count=format_count,
        absent_charts=absent,
        samples=list_samples(result),
        splits=list_splits(data_report),
        findings=list_findings(data_report),
        facts=list_facts(result),
        packages=result.environment.packages,
        recipe_text=recipe_text,
    )
    # A lone surrogate (from "\ud800" in a JSON file) cannot be written as UTF-8; the run
    # must not fail at its last stage because of one broken character in a sample.
    return page.encode("utf-8", "replace").decode("utf-8")


def render_run(finished: FinishedRun) -> str:
    """The report of a run from the files of its directory, as the text of one HTML file."""
    run = finished.run
    return render_report(
        finished.result,
        finished.recipe,
        finished.metric_rows(),
        run.resolved_recipe.read_text(encoding="utf-8"),
        json.loads(run.data_report.read_text(encoding="utf-8")) if run.data_report.exists() else {},
        read_plan_figures(run, finished.result),
    )
