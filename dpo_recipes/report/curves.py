"""Which columns of metrics.jsonl become which chart."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from dpo_recipes.formats import finite, format_percent, format_short
from dpo_recipes.report.charts import (
    MAX_DRAWABLE,
    Chart,
    ChartSpec,
    Point,
    Series,
    lay_out_chart,
)


@dataclass(frozen=True)
class Column:
    """One logged key and how its line looks; `dashed` marks held-out values throughout."""

    key: str
    label: str
    hue: int = 0
    dashed: bool = False


@dataclass(frozen=True)
class Curve:
    """One chart of the report and the columns it reads."""

    title: str
    columns: tuple[Column, ...]
    caption: str
    format_value: Callable[[Any], str] = format_short
    y_ticks: tuple[float, ...] | None = None
    reference_y: float | None = None
    optional: bool = False


def _train_and_eval(key: str) -> tuple[Column, ...]:
    return Column(key, "train"), Column(f"eval_{key}", "eval", hue=1, dashed=True)


CURVES = (
    Curve("Loss", _train_and_eval("loss"), "Lower is better."),
    Curve(
        "Reward accuracy",
        _train_and_eval("rewards/accuracies"),
        "Share of pairs whose chosen answer gets the higher reward. The heavier line at 50% is what guessing gives.",
        format_value=partial(format_percent, decimals=0),
        y_ticks=(0.0, 0.25, 0.5, 0.75, 1.0),
        reference_y=0.5,
    ),
    Curve(
        "Reward margin",
        _train_and_eval("rewards/margins"),
        "Reward of the chosen answer minus that of the rejected one. "
        "The heavier line at 0 is the base compared with itself.",
        reference_y=0.0,
    ),
    Curve(
        "Log-probability of the answers",
        (
            Column("logps/chosen", "train chosen"),
            Column("logps/rejected", "train rejected", hue=1),
            Column("eval_logps/chosen", "eval chosen", dashed=True),
            Column("eval_logps/rejected", "eval rejected", hue=1, dashed=True),
        ),
        "Summed over an answer's tokens. Both falling together means that probability "
        "moves to answers outside the data.",
    ),
    Curve("Learning rate", (Column("learning_rate", ""),), "", optional=True),
    Curve("Gradient norm", (Column("grad_norm", ""),), "Before clipping.", optional=True),
)


def read_points(rows: list[dict[str, Any]], key: str) -> list[Point]:
    """The logged values of one key by step; of rows with equal steps the last one counts.

    A resumed run logs the steps it repeats a second time, hence the rule. A row without
    the key is no point; a null, NaN or infinite value is a gap.
    """
    points: dict[float, float | None] = {}
    for row in rows:
        step = finite(row.get("step"))
        if step is None or key not in row:
            continue
        value = finite(row[key])
        drawable = value is not None and abs(value) < MAX_DRAWABLE
        points[step] = value if drawable else None
    return sorted(points.items())


def draw_curves(rows: list[dict[str, Any]]) -> tuple[list[Chart], list[str]]:
    """The charts that have something to show, and the titles of the expected ones that do not."""
    charts, absent = [], []
    for curve in CURVES:
        spec = ChartSpec(
            title=curve.title,
            caption=curve.caption,
            series=[
                Series(column.label, read_points(rows, column.key), column.hue, column.dashed)
                for column in curve.columns
            ],
            format_value=curve.format_value,
            y_ticks=curve.y_ticks,
            reference_y=curve.reference_y,
        )
        chart = lay_out_chart(spec)
        if chart:
            charts.append(chart)
        elif not curve.optional:
            absent.append(curve.title.lower())
    return charts, absent
