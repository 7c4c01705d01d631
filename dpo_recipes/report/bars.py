"""Histograms as plain geometry: `bars.svg.jinja` draws what this module places, in units of its viewBox."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpo_recipes.formats import format_count, format_number
from dpo_recipes.report.charts import Tick, nice_ticks

WIDTH, HEIGHT = 440, 226
LEFT, RIGHT, TOP, BOTTOM = 50.0, 432.0, 22.0, 186.0
MAX_X_TICKS = 7
_MAX_BINS = 14


@dataclass(frozen=True)
class Axis:
    """What a histogram counts, and how its values are shown: whole numbers, or with decimals."""

    name: str
    decimals: int | None = None

    def show(self, value: float) -> str:
        """A value as a person reads it."""
        return format_count(value) if self.decimals is None else format_number(value, self.decimals)


TOKENS = Axis("tokens")
REWARDS = Axis("reward", 2)


@dataclass(frozen=True)
class Bar:
    """One bin of one histogram, with the text that hovering shows."""

    x: float
    y: float
    width: float
    height: float
    hue: int
    text: str


@dataclass(frozen=True)
class BarChart:
    """Everything `bars.svg.jinja` needs to draw one chart."""

    title: str
    caption: str
    description: str
    legend: list[str]
    bars: list[Bar]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    limit: Tick | None
    x_name: str = TOKENS.name
    width: int = WIDTH
    height: int = HEIGHT
    left: float = LEFT
    right: float = RIGHT
    top: float = TOP
    bottom: float = BOTTOM


def bin_values(groups: Mapping[str, Sequence[float]], *, is_whole: bool = False) -> dict[str, dict[str, Any]]:
    """Histograms of groups of values with the same edges, which are multiples of a round number."""
    every = [value for values in groups.values() for value in values] or [0.0]
    low, high = min(every), max(every)
    raw = max((high - low) / _MAX_BINS, 1.0 if is_whole else 1e-6 * max(1.0, abs(low), abs(high)))
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.floor(high / step + 1e-9)
    found = {}
    for name, values in groups.items():
        counts = [0] * (last - first + 1)
        for value in values:
            counts[math.floor(value / step + 1e-9) - first] += 1
        edges = [round(step) * n if is_whole else step * n for n in range(first, last + 1)]
        found[name] = {"edges": edges, "counts": counts, "min": low, "max": high}
    return found


def lay_out_bars(
    title: str,
    caption: str,
    histograms: Mapping[str, Mapping[str, Any]],
    limit: int | None = None,
    axis: Axis = TOKENS,
) -> BarChart:
    """Histograms with the same edges side by side; `limit` is a length to mark. Takes `inspect_lengths.histograms` and
    `bin_values`."""
    first = next(iter(histograms.values()))
    edges: Sequence[float] = first["edges"]
    top = max(max(histogram["counts"]) for histogram in histograms.values())
    y_ticks = [tick for tick in nice_ticks(0, top) if tick == int(tick)]
    slot = (RIGHT - LEFT) / len(edges)
    bars = []
    for hue, (name, histogram) in enumerate(histograms.items()):
        width = slot * 0.86 / len(histograms)
        for at, count in enumerate(histogram["counts"]):
            height = (BOTTOM - TOP) * count / y_ticks[-1]
            text = f"{name}, {_bounds(histogram, at, axis)} {axis.name}: {format_count(count)}"
            bars.append(Bar(LEFT + slot * (at + 0.07) + width * hue, BOTTOM - height, width, height, hue, text))
    # Round multiples, so that 0 is one of them where it is on the chart.
    bin_width = edges[1] - edges[0] if len(edges) > 1 else 1
    every = -(-len(edges) // MAX_X_TICKS)
    return BarChart(
        title=title,
        caption=caption,
        description=_describe(title, histograms, axis),
        legend=list(histograms) if len(histograms) > 1 else [],
        bars=bars,
        x_ticks=[
            Tick(LEFT + slot * at, axis.show(edge))
            for at, edge in enumerate(edges)
            if len(edges) == 1 or round(edge / bin_width) % every == 0
        ],
        y_ticks=[Tick(BOTTOM - (BOTTOM - TOP) * tick / y_ticks[-1], format_count(tick)) for tick in y_ticks],
        limit=_limit(edges, limit, slot, max(histogram["max"] for histogram in histograms.values())),
        x_name=axis.name,
    )


def _bounds(histogram: Mapping[str, Any], at: int, axis: Axis) -> str:
    edges = histogram["edges"]
    if axis.decimals is not None:
        ends = edges[at], edges[at + 1] if at + 1 < len(edges) else max(histogram["max"], edges[at])
        return " to ".join(map(axis.show, ends))
    first = min(edges[0], histogram["min"]) if at == 0 else edges[at]
    last = edges[at + 1] - 1 if at + 1 < len(edges) else max(histogram["max"], edges[at])
    return f"{format_count(first)} to {format_count(last)}"


def _limit(edges: Sequence[float], limit: int | None, slot: float, longest: int) -> Tick | None:
    """The position of the marked length. None if it is off the chart, because no row is too long or all are."""
    if limit is None or limit < edges[0] or limit > longest:
        return None
    at = max(at for at, edge in enumerate(edges) if edge <= limit)
    end = edges[at + 1] if at + 1 < len(edges) else longest + 1
    return Tick(LEFT + slot * (at + (limit - edges[at]) / (end - edges[at])), f"max_length {format_count(limit)}")


def _describe(title: str, histograms: Mapping[str, Mapping[str, Any]], axis: Axis) -> str:
    parts = []
    for name, histogram in histograms.items():
        at = max(range(len(histogram["counts"])), key=histogram["counts"].__getitem__)
        parts.append(f"{name}, most often {_bounds(histogram, at, axis)}")
    return f"{title}: {'; '.join(parts)} {axis.name}."
