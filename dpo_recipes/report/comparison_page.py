"""Renders a comparison of runs as one self-contained HTML page."""

from __future__ import annotations

from dpo_recipes.formats import format_count
from dpo_recipes.report.comparison import Comparison
from dpo_recipes.report.comparison_tables import list_tables
from dpo_recipes.report.comparison_verdict import write_comparison_verdict
from dpo_recipes.report.overlay import num_highlighted, overlay_curves
from dpo_recipes.report.settings_plots import draw_parallel, draw_settings
from dpo_recipes.report.templates import load_templates


def render_comparison(comparison: Comparison) -> str:
    """The comparison as the text of one HTML file."""
    num_runs = len(comparison.runs)
    template = load_templates().get_template("comparison.html.jinja")
    page = template.render(
        title=comparison.title or f"{format_count(num_runs)} {'run' if num_runs == 1 else 'runs'}",
        verdict=write_comparison_verdict(comparison),
        cautions=comparison.cautions,
        tables=list_tables(comparison),
        charts=overlay_curves(comparison),
        num_quiet=len(comparison.configurations) - num_highlighted(comparison),
        num_highlighted=num_highlighted(comparison),
        parallel=draw_parallel(comparison),
        plots=draw_settings(comparison),
        metric=comparison.metric,
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate in a recipe's text
