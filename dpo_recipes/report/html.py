"""Render the report of a run as one self-contained HTML page."""

from typing import Any

from dpo_recipes.report.curves import draw_curves
from dpo_recipes.report.sections import (
    compare_models,
    list_facts,
    list_findings,
    list_samples,
    list_splits,
    list_tiles,
)
from dpo_recipes.report.templates import load_templates
from dpo_recipes.report.verdict import base_is_reference, write_verdict


def render_report(
    result: dict[str, Any],
    metrics: list[dict[str, Any]],
    recipe_text: str,
    data_report: dict[str, Any],
) -> str:
    """The report as the text of one HTML file.

    Args:
        result: The run's result.json. `status`, `recipe`, `steps` and `metrics` are
            required; anything else may be missing or null, and is then left out.
        metrics: The rows of metrics.jsonl as the trainer logged them, in any order.
        recipe_text: The resolved recipe, as YAML.
        data_report: What the data stage kept and dropped, by split.
    """
    charts, absent = draw_curves(metrics)
    environment = result.get("environment") or {}
    template = load_templates().get_template("report.html.jinja")
    page = template.render(
        result=result,
        verdict=write_verdict(result),
        tiles=list_tiles(result),
        comparison=compare_models(result),
        base_is_reference=base_is_reference(result),
        charts=charts,
        absent_charts=absent,
        samples=list_samples(result),
        splits=list_splits(data_report),
        findings=list_findings(data_report),
        facts=list_facts(result),
        packages=environment.get("packages") or {},
        recipe_text=recipe_text,
    )
    # A lone surrogate (from "\ud800" in a JSON file) cannot be written as UTF-8; the run
    # must not fail at its last stage because of one broken character in a sample.
    return page.encode("utf-8", "replace").decode("utf-8")
