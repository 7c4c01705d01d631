"""The curves of several runs in one chart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from dpo_recipes.formats import format_percent, format_short
from dpo_recipes.objectives.metric import LOSS, Metric
from dpo_recipes.report.charts import MAX_POINTS, Chart, ChartSpec, Series, lay_out_chart
from dpo_recipes.report.comparison import Comparison
from dpo_recipes.report.curves import read_points

MAX_HUES = 6
"""The number of colours and shapes, which is that of the lines that can be told apart."""
_NUM_HIGHLIGHTED = 4
"""The number of the best configurations that are drawn in colour if there are more than `MAX_HUES`."""
_TOTAL_POINTS = 12_000
"""About the number of points of a chart, of all its lines."""


@dataclass(frozen=True)
class _Line:
    """The logged rows of one run, and how its lines look."""

    rows: list[dict[str, Any]]
    label: str
    hue: int
    is_labelled: bool
    is_quiet: bool


def num_highlighted(comparison: Comparison) -> int:
    """The number of configurations that are drawn in colour; the others are thin lines in the background."""
    count = len(comparison.configurations)
    return count if count <= MAX_HUES else _NUM_HIGHLIGHTED


def overlay_curves(comparison: Comparison) -> list[Chart]:
    """The losses and the other important metrics of all runs by step, or by epoch if a step has not as many rows in
    all of them."""
    lines = list(_lines(comparison))
    x_name = "step" if _steps_are_alike(comparison) else "epoch"
    charts = []
    for title, key, metric in _columns(comparison):
        spec = ChartSpec(
            title=title,
            series=[
                Series(
                    line.label,
                    read_points(line.rows, key, x_key=x_name),
                    line.hue,
                    is_labelled=line.is_labelled,
                    is_quiet=line.is_quiet,
                )
                for line in lines
            ],
            caption=metric.description,
            format_value=partial(format_percent, decimals=0) if metric.is_share else format_short,
            y_ticks=(0.0, 0.25, 0.5, 0.75, 1.0) if metric.is_share else None,
            reference_y=metric.chance if metric.chance is not None else metric.base_value,
            x_name=x_name,
            max_points=max(40, min(MAX_POINTS, _TOTAL_POINTS // len(lines))),
        )
        chart = lay_out_chart(spec)
        if chart is not None:
            charts.append(chart)
    return charts


def _columns(comparison: Comparison) -> Iterator[tuple[str, str, Metric]]:
    """The title of each chart, the column that it draws, and the metric of the column."""
    metrics = [metric for metric in comparison.objective.metrics if metric.is_shown_live and metric != LOSS]
    if comparison.metric is not None and comparison.metric not in (LOSS, *metrics):
        metrics.insert(0, comparison.metric)
    yield "Held-out loss", "eval_loss", LOSS
    yield "Training loss", "loss", LOSS
    for metric in metrics:
        yield f"Held-out {metric.label[0].lower()}{metric.label[1:]}", f"eval_{metric.key}", metric


def _lines(comparison: Comparison) -> Iterator[_Line]:
    highlighted = num_highlighted(comparison)
    for configuration in comparison.configurations:
        hue = min(configuration.number, MAX_HUES) - 1
        for index, run in enumerate(configuration.runs):
            is_quiet = configuration.number > highlighted
            yield _Line(run.finished.metric_rows(), f"#{configuration.number}", hue, index == 0, is_quiet)


def _steps_are_alike(comparison: Comparison) -> bool:
    return len({run.finished.result.processes.rows_per_step for run in comparison.runs}) == 1
