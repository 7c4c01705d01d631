"""Which columns of metrics.jsonl become which chart."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from dpo_recipes.formats import finite, format_percent, format_short
from dpo_recipes.objectives.metric import Metric
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
    scale: float = 1.0
    """The factor from the logged values to those that are drawn."""


_OTHER_CURVES = (
    Curve("Learning rate", (Column("learning_rate", ""),), "", optional=True),
    Curve("Gradient norm", (Column("grad_norm", ""),), "Before clipping.", optional=True),
    Curve(
        "Throughput",
        (Column("distinct_tokens_per_second", ""),),
        "Distinct tokens a second, without padding; a prompt that several answers share counts once.",
        optional=True,
    ),
    Curve(
        "Peak memory, GiB",
        (Column("peak_memory_bytes", ""),),
        "The highest use up to each step, of the process that needs most.",
        optional=True,
        scale=2**-30,
    ),
)


def list_curves(metrics: Iterable[Metric]) -> list[Curve]:
    """The charts of an objective's metrics: one for each metric that is shown live, and one for each `chart` title."""
    shared: dict[str, list[Metric]] = {}
    for metric in metrics:
        if metric.chart or metric.is_shown_live:
            shared.setdefault(metric.chart or metric.label, []).append(metric)
    return [*(_curve(title, group) for title, group in shared.items()), *_OTHER_CURVES]


def _curve(title: str, metrics: list[Metric]) -> Curve:
    """A chart of metrics of one kind: its axis and caption are those of the first one."""
    first = metrics[0]
    mark = first.base_value if first.chance is None else first.chance
    if first.chance is not None:
        meaning = f"The heavier line at {format_percent(mark, 0)} is what guessing gives."
    else:
        meaning = f"The heavier line at {format_short(mark)} is the base compared with itself."
    return Curve(
        title,
        _columns(metrics),
        " ".join(text for text in (first.description, "" if mark is None else meaning) if text),
        format_value=partial(format_percent, decimals=0) if first.is_share else format_short,
        y_ticks=(0.0, 0.25, 0.5, 0.75, 1.0) if first.is_share else None,
        reference_y=mark,
    )


def _columns(metrics: list[Metric]) -> tuple[Column, ...]:
    """Training values with solid lines, held-out ones with dashed lines; several metrics have a hue each."""
    if len(metrics) == 1:
        key = metrics[0].key
        return Column(key, "train"), Column(f"eval_{key}", "eval", hue=1, dashed=True)
    named = [(metric.key, metric.key.rpartition("/")[2], hue) for hue, metric in enumerate(metrics)]
    return (
        *(Column(key, f"train {name}", hue) for key, name, hue in named),
        *(Column(f"eval_{key}", f"eval {name}", hue, dashed=True) for key, name, hue in named),
    )


def read_points(rows: list[dict[str, Any]], key: str, scale: float = 1.0, x_key: str = "step") -> list[Point]:
    """The logged values of one key by step, multiplied by `scale`; of rows with equal steps the last one counts.

    A resumed run logs the steps it repeats a second time, hence the rule. A row without
    the key is no point; a null, NaN or infinite value is a gap.
    """
    points: dict[float, float | None] = {}
    for row in rows:
        step = finite(row.get(x_key))
        if step is None or key not in row:
            continue
        value = finite(row[key])
        drawable = value is not None and abs(value) < MAX_DRAWABLE
        points[step] = value * scale if value is not None and drawable else None
    return sorted(points.items())


def draw_curves(rows: list[dict[str, Any]], metrics: Iterable[Metric]) -> tuple[list[Chart], list[str]]:
    """The charts that have something to show, and the titles of the expected ones that do not."""
    charts, absent = [], []
    for curve in list_curves(metrics):
        spec = ChartSpec(
            title=curve.title,
            caption=curve.caption,
            series=[
                Series(column.label, read_points(rows, column.key, curve.scale), column.hue, column.dashed)
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
