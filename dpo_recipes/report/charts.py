"""Line charts as plain geometry: `chart.svg.jinja` draws what this module places.

All lengths are in units of the SVG's viewBox, whose y axis points down.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from dpo_recipes.formats import format_number

WIDTH, HEIGHT = 440, 238
LEFT, TOP, BOTTOM = 50.0, 12.0, 214.0
LABEL_GAP = 16.0  # the least distance between two labels at the line ends
LABEL_CHAR_WIDTH = 7.6  # 12 px of the widest common sans-serif, rounded up
MIN_LABEL_WIDTH = 40.0  # the word "step" below the labels needs this much
MAX_MARKERS = 30  # above this, markers hide the line they mark
MAX_POINTS = 600  # a long run is thinned to this many points a line
MAX_DRAWABLE = 1e100  # a larger value is as good as infinite, and its span overflows

Point = tuple[float, float | None]


@dataclass(frozen=True)
class Series:
    """One line: points in order of x; a y of None is a gap (NaN or inf was logged)."""

    label: str
    points: list[Point]
    hue: int = 0
    dashed: bool = False
    is_labelled: bool = True
    """Whether its name and last value stand at its end."""
    is_quiet: bool = False
    """Whether it is only drawn thinly, as the background of others."""


@dataclass(frozen=True)
class ChartSpec:
    """What a chart shows, before anything is placed."""

    title: str
    series: list[Series]
    caption: str = ""
    format_value: Callable[[float], str] = str
    y_ticks: tuple[float, ...] | None = None
    reference_y: float | None = None
    x_name: str = "step"
    max_points: int = MAX_POINTS
    """The number of points to which a longer line is thinned."""


@dataclass(frozen=True)
class Tick:
    """A grid line or axis mark with its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Marker:
    """A point of a line, with the text that hovering shows."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Line:
    """A placed line: SVG path data, markers, and the label at its end."""

    path: str
    markers: list[Marker]
    hue: int
    dashed: bool
    label: str | None
    label_y: float
    end: tuple[float, float]
    is_quiet: bool = False


@dataclass(frozen=True)
class Chart:
    """Everything `chart.svg.jinja` needs to draw one chart."""

    title: str
    caption: str
    description: str
    right: float
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    reference_at: float | None
    lines: list[Line]
    num_gaps: int
    x_name: str = "step"
    width: int = field(default=WIDTH)
    height: int = field(default=HEIGHT)
    left: float = field(default=LEFT)
    top: float = field(default=TOP)
    bottom: float = field(default=BOTTOM)


def nice_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers (steps of 1, 2 or 5) that span `low` to `high`, both ends included."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    # Multiples of the step, not a running sum, so that rounding errors do not add up; the
    # tolerance keeps 0.3 / 0.1 = 2.9999999999999996 from costing an empty band.
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [n * step for n in range(first, last + 1)]


def spread_labels(wanted: list[float], low: float, high: float, gap: float) -> list[float]:
    """Positions near the wanted ones, in their order, at least `gap` apart and in bounds."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = [0.0] * len(wanted)
    floor = low
    for i in order:
        placed[i] = max(wanted[i], floor)
        floor = placed[i] + gap
    ceiling = high
    for i in reversed(order):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - gap
    return placed


def thin_points(points: list[Point], limit: int = MAX_POINTS) -> list[Point]:
    """At most `limit` points: the lowest and highest of each stretch, so spikes survive."""
    if len(points) <= limit:
        return points
    size = math.ceil(len(points) / (limit // 2 - 1))
    kept: list[Point] = []
    for start in range(0, len(points) - 1, size):
        drawn = [p for p in points[start : min(start + size, len(points) - 1)] if p[1] is not None]
        if not drawn:
            kept.append(points[start])
            continue
        ends = {min(drawn, key=lambda p: p[1] or 0.0), max(drawn, key=lambda p: p[1] or 0.0)}
        kept.extend(sorted(ends, key=lambda p: p[0]))
    return [*kept, points[-1]]


def lay_out_chart(spec: ChartSpec) -> Chart | None:
    """Place a chart, or None if no series has a value to draw."""
    shown = [s for s in spec.series if any(y is not None for _, y in s.points)]
    if not shown:
        return None
    shown.sort(key=lambda series: not series.is_quiet)  # what is drawn later covers what was drawn before
    ys = [y for s in shown for _, y in s.points if y is not None]
    ys += [] if spec.reference_y is None else [spec.reference_y]
    y_ticks = list(spec.y_ticks or nice_ticks(min(ys), max(ys)))
    x_max = max(x for s in shown for x, _ in s.points) or 1.0
    texts = _tick_texts(spec, y_ticks)
    labels = [_label(spec, series) for series in shown]
    longest = max((len(label) for label in labels if label is not None), default=0)
    right = WIDTH - 16 - max(MIN_LABEL_WIDTH, LABEL_CHAR_WIDTH * longest)

    def x_at(x: float) -> float:
        return LEFT + (right - LEFT) * x / x_max

    def y_at(y: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])

    return Chart(
        title=spec.title,
        caption=spec.caption,
        description=_describe(spec, shown),
        right=right,
        x_ticks=[Tick(x_at(x), text) for x, text in _x_ticks(x_max, spec.x_name)],
        y_ticks=[Tick(y_at(y), text) for y, text in zip(y_ticks, texts, strict=True)],
        reference_at=None if spec.reference_y is None else y_at(spec.reference_y),
        lines=[
            _place_line(series, label, label_y, spec, x_at, y_at)
            for series, label, label_y in zip(shown, labels, _label_ys(shown, labels, y_at), strict=True)
        ],
        num_gaps=sum(y is None for s in spec.series for _, y in s.points),
        x_name=spec.x_name,
    )


def _label(spec: ChartSpec, series: Series) -> str | None:
    """The text at the end of a line: its name and its last value."""
    if not series.is_labelled or series.is_quiet:
        return None
    return f"{series.label} {spec.format_value(_last(series)[1])}".strip()


def _label_ys(shown: list[Series], labels: list[str | None], y_at: Callable[[float], float]) -> list[float]:
    """The height of each label; where there is none, that of the end of the line."""
    ends = [y_at(_last(series)[1]) for series in shown]
    labelled = [number for number, label in enumerate(labels) if label is not None]
    spread = spread_labels([ends[number] for number in labelled], TOP, BOTTOM, LABEL_GAP)
    for number, label_y in zip(labelled, spread, strict=True):
        ends[number] = label_y
    return ends


def _tick_texts(spec: ChartSpec, ticks: list[float]) -> list[str]:
    """The same number of decimals on the whole axis, as few as tell the ticks apart."""
    step, largest = ticks[1] - ticks[0], max(map(abs, ticks))
    if spec.y_ticks or step < 1e-3 or largest >= 1e6:
        return [spec.format_value(y) for y in ticks]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [format_number(y, decimals) for y in ticks]


def _last(series: Series) -> tuple[float, float]:
    return next((x, y) for x, y in reversed(series.points) if y is not None)


def _x_ticks(x_max: float, x_name: str) -> list[tuple[float, str]]:
    """Round numbers up to the end of the axis; steps are whole numbers."""
    ticks = [x for x in nice_ticks(0, x_max) if x <= x_max]
    if x_name == "step":
        return [(x, f"{x:,.0f}") for x in ticks if x == int(x)]
    return [(x, f"{x:g}") for x in ticks]


def _place_line(
    series: Series,
    label: str | None,
    label_y: float,
    spec: ChartSpec,
    x_at: Callable[[float], float],
    y_at: Callable[[float], float],
) -> Line:
    points = thin_points(series.points, spec.max_points)
    values = [None, *(y for _, y in points), None]
    path, markers = "", []
    for i, (x, y) in enumerate(points):
        if y is None:
            continue
        path += f"{'M' if values[i] is None else 'L'}{x_at(x):.1f} {y_at(y):.1f}"
        alone = values[i] is None and values[i + 2] is None
        if not series.is_quiet and (alone or len(points) <= MAX_MARKERS or (x, y) == _last(series)):
            markers.append(Marker(x_at(x), y_at(y), f"{spec.x_name} {_x_text(x, spec)}: {spec.format_value(y)}"))
    last_x, last_y = _last(series)
    end = (x_at(last_x), y_at(last_y))
    return Line(path, markers, series.hue, series.dashed, label, label_y, end, series.is_quiet)


def _x_text(x: float, spec: ChartSpec) -> str:
    return f"{x:,.0f}" if spec.x_name == "step" else f"{x:.3g}"


def _describe(spec: ChartSpec, shown: list[Series]) -> str:
    parts = []
    for series in shown:
        if series.is_quiet or not series.is_labelled:
            continue
        first_x, first_y = next((x, y) for x, y in series.points if y is not None)
        last_x, last_y = _last(series)
        text = f"{series.label} {spec.format_value(first_y)} at {spec.x_name} {_x_text(first_x, spec)}"
        if last_x != first_x:
            text += f" to {spec.format_value(last_y)} at {spec.x_name} {_x_text(last_x, spec)}"
        parts.append(text.strip())
    others = sum(series.is_quiet or not series.is_labelled for series in shown)
    parts += [f"and {others} other lines"] if others else []
    return f"{spec.title} by training {spec.x_name}: {'; '.join(parts)}."
