"""How the settings that differ go together with the metric: parallel coordinates, and one plot for each setting.

Lengths are in units of the SVG's viewBox, as in `charts`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from dpo_recipes.formats import NO_VALUE
from dpo_recipes.report.charts import BOTTOM, HEIGHT, LEFT, TOP, WIDTH, Marker, Tick, nice_ticks
from dpo_recipes.report.comparison import Comparison, Configuration
from dpo_recipes.report.overlay import MAX_HUES, num_highlighted

MIN_CONFIGURATIONS = 4
"""Fewer are easier to read in a table."""
MAX_SETTINGS = 8
_MAX_TICKS = 6
_LOG_RATIO = 10
"""An axis of positive numbers is logarithmic if the largest is at least this many times the smallest."""
_WIDE, _TALL = 920, 320
_SIDE, _HEAD, _FOOT = 70.0, 40.0, 290.0
_NAME_CHARS = 22


@dataclass(frozen=True)
class Axis:
    """The values of one setting or of the metric: where each lies between 0 and 1, and the marks."""

    name: str
    place: Callable[[Any], float]
    ticks: list[tuple[float, str]]


@dataclass(frozen=True)
class PlacedAxis:
    """A vertical axis of the parallel coordinates."""

    name: str
    x: float
    ticks: list[Tick]


@dataclass(frozen=True)
class Polyline:
    """One configuration in the parallel coordinates."""

    path: str
    text: str
    hue: int
    is_quiet: bool


@dataclass(frozen=True)
class ParallelCoordinates:
    """An axis for each setting and one for the metric; a line for each configuration, the best one on top."""

    description: str
    axes: list[PlacedAxis]
    lines: list[Polyline]
    width: int = _WIDE
    height: int = _TALL
    head: float = _HEAD
    foot: float = _FOOT


@dataclass(frozen=True)
class Dot:
    """One configuration in the plot of a setting."""

    marker: Marker
    hue: int
    is_quiet: bool


@dataclass(frozen=True)
class SettingPlot:
    """The metric by the values of one setting, and a line through the mean of each value if values are repeated."""

    name: str
    description: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    dots: list[Dot]
    means: str
    width: int = WIDTH
    height: int = HEIGHT
    left: float = LEFT
    right: float = WIDTH - 24.0
    top: float = TOP
    bottom: float = BOTTOM


def show_value(value: Any) -> str:
    """A setting's value as a recipe writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        mantissa, _, exponent = repr(value).partition("e")
        mantissa = mantissa.removesuffix(".0")
        return f"{mantissa}e{int(exponent)}" if exponent else mantissa
    return str(value)


def plotted_settings(comparison: Comparison) -> list[str]:
    """The settings that are plotted; none if there are too few configurations with a value, or too many settings."""
    ranked = _ranked(comparison)
    if comparison.metric is None or len(ranked) < MIN_CONFIGURATIONS or len(comparison.settings) > MAX_SETTINGS:
        return []
    return list(comparison.settings)


def draw_parallel(comparison: Comparison) -> ParallelCoordinates | None:
    """The parallel coordinates, or None if there is nothing to plot."""
    settings, metric = plotted_settings(comparison), comparison.metric
    if not settings or metric is None:
        return None
    ranked = _ranked(comparison)
    axes = [_setting_axis(path, ranked) for path in settings]
    axes.append(_number_axis(metric.label, [c.value for c in ranked], metric.format, falls=not metric.higher_is_better))
    distance = (_WIDE - 2 * _SIDE) / (len(axes) - 1)
    places = [_SIDE + distance * number for number in range(len(axes))]

    def y_at(share: float) -> float:
        return _FOOT - (_FOOT - _HEAD) * share

    lines = []
    for configuration in reversed(ranked):  # the best one is drawn last
        values = [*(configuration.settings.get(path, NO_VALUE) for path in settings), configuration.value]
        points = [(x, y_at(axis.place(value))) for x, axis, value in zip(places, axes, values, strict=True)]
        hue, is_quiet = _look(comparison, configuration)
        path = _path(points)
        lines.append(Polyline(path, _describe(comparison, configuration, settings), hue, is_quiet))
    return ParallelCoordinates(
        f"Settings and {metric.label.lower()} of {len(ranked)} configurations. "
        f"The best: {_describe(comparison, ranked[0], settings)}.",
        [
            PlacedAxis(_short(axis.name), x, [Tick(y_at(share), text) for share, text in axis.ticks])
            for x, axis in zip(places, axes, strict=True)
        ],
        lines,
    )


def draw_settings(comparison: Comparison) -> list[SettingPlot]:
    """One plot for each setting that differs."""
    return [_plot(comparison, path) for path in plotted_settings(comparison)]


def _plot(comparison: Comparison, path: str) -> SettingPlot:
    ranked, metric = _ranked(comparison), comparison.metric
    assert metric is not None
    across = _setting_axis(path, ranked)
    up = _number_axis(metric.label, [c.value for c in ranked], metric.format)
    inner_left, inner_right = LEFT + 14, SettingPlot.right - 14

    def x_at(value: Any) -> float:
        return inner_left + (inner_right - inner_left) * across.place(value)

    def y_at(share: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * share

    dots, by_value = [], dict[float, list[float]]()
    for configuration in reversed(ranked):
        value = configuration.settings.get(path, NO_VALUE)
        text = _describe(comparison, configuration, (path,))
        marker = Marker(x_at(value), y_at(up.place(configuration.value)), text)
        dots.append(Dot(marker, *_look(comparison, configuration)))
        by_value.setdefault(x_at(value), []).append(marker.y)
    repeats = len(by_value) * 2 <= len(ranked)  # else the line would join single points
    means = [(x, fmean(ys)) for x, ys in sorted(by_value.items())] if repeats else []
    return SettingPlot(
        path,
        _describe_plot(comparison, path, ranked),
        [Tick(inner_left + (inner_right - inner_left) * share, text) for share, text in across.ticks],
        [Tick(y_at(share), text) for share, text in up.ticks],
        dots,
        _path(means) if len(means) > 1 else "",
    )


def _path(points: Sequence[tuple[float, float]]) -> str:
    """A line through points, as SVG path data."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _ranked(comparison: Comparison) -> list[Configuration]:
    return [configuration for configuration in comparison.configurations if configuration.value is not None]


def _look(comparison: Comparison, configuration: Configuration) -> tuple[int, bool]:
    """The hue of a configuration, and whether it is in the background."""
    return min(configuration.number, MAX_HUES) - 1, configuration.number > num_highlighted(comparison)


def _setting_axis(path: str, configurations: Sequence[Configuration]) -> Axis:
    """An axis of numbers, or of the different values in order if not all of them are numbers."""
    values = [configuration.settings.get(path, NO_VALUE) for configuration in configurations]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return _number_axis(path, values, show_value, of_settings=True)
    texts = sorted({show_value(value) for value in values})
    step = 1 / max(1, len(texts) - 1)
    places = {text: step * number if len(texts) > 1 else 0.5 for number, text in enumerate(texts)}
    every = math.ceil(len(texts) / _MAX_TICKS)
    ticks = [(places[text], _short(text)) for text in texts[::every]]
    return Axis(path, lambda value: places[show_value(value)], ticks)


def _number_axis(
    name: str,
    values: Sequence[Any],
    show: Callable[[Any], str],
    *,
    falls: bool = False,
    of_settings: bool = False,
) -> Axis:
    """An axis from the lowest to the highest number, from top to bottom if it `falls`. That of a setting is logarithmic
    where its numbers span orders of magnitude, and has its values as marks."""
    low, high = min(values), max(values)
    is_log = of_settings and low > 0 and high / low >= _LOG_RATIO
    scale: Callable[[float], float] = math.log if is_log else float
    marks = sorted(set(values))
    if not of_settings:
        marks = nice_ticks(low, high)
        low, high = marks[0], marks[-1]
    elif len(marks) > _MAX_TICKS:
        marks = [low, high]

    def place(value: Any) -> float:
        share = (scale(value) - scale(low)) / (scale(high) - scale(low)) if high > low else 0.5
        return 1 - share if falls else share

    return Axis(name, place, [(place(mark), show(mark)) for mark in marks])


def _describe(comparison: Comparison, configuration: Configuration, settings: Sequence[str]) -> str:
    metric = comparison.metric
    assert metric is not None
    values = [f"{path} {show_value(configuration.settings.get(path, NO_VALUE))}" for path in settings]
    measured = f"{metric.label.lower()} {metric.format(configuration.value)}"
    return f"#{configuration.number} {', '.join([*values, measured])}"


def _describe_plot(comparison: Comparison, path: str, ranked: Sequence[Configuration]) -> str:
    """The mean of the metric for each value, for those who cannot see the plot; of many values the best ones."""
    metric = comparison.metric
    assert metric is not None
    by_value: dict[str, list[float]] = {}
    for configuration in ranked:  # the best one comes first
        value = show_value(configuration.settings.get(path, NO_VALUE))
        by_value.setdefault(value, []).append(configuration.value or 0.0)
    means = [f"{value}: {metric.format(fmean(values))}" for value, values in list(by_value.items())[:_MAX_TICKS]]
    return f"Mean {metric.label.lower()} by {path}: {', '.join(means)}."


def _short(text: str) -> str:
    """A text that fits between two axes; of a path, its end says most."""
    return text if len(text) <= _NAME_CHARS else f"…{text[1 - _NAME_CHARS :]}"
