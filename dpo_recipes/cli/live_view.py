"""A few lines at the bottom of a terminal that are drawn again with each event: a bar, metrics, speed and memory."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from dpo_recipes.formats import format_bytes, format_percent
from dpo_recipes.objectives.metric import Metric

_BAR_WIDTH = 24
_SPARK_WIDTH = 12
_SPARKS = "▁▂▃▄▅▆▇█"
_INDENT = " " * 10


class LiveView:
    """Draws the lines with the control sequences that all terminals share."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._lines: list[str] = []
        self._histories: dict[str, list[float]] = {}
        encoding = getattr(sys.stderr, "encoding", None) or "ascii"
        self.has_blocks = encoding.lower().replace("-", "") == "utf8"
        """Whether the terminal has the characters of bars and sparklines."""

    def begin_run(self) -> None:
        """Forget the metrics of the run before."""
        self._histories = {}

    def show_text(self, text: str) -> None:
        """Show one line."""
        self._draw([text])

    def show_share(self, name: str, detail: str, done: float, eta: str) -> None:
        """Show how much of a stage is done."""
        self._draw([f"{name:<9} {self._bar(done)} {format_percent(done, 0):>4}  {detail}  ETA {eta}"])

    def show_step(self, event: dict[str, Any], metrics: Sequence[Metric], eta: str) -> None:
        """Show a step of the training: progress, the metrics with their course, speed and memory."""
        done = event["step"] / event["total"] if event["total"] else 0.0
        steps = f"step {event['step']:,}/{event['total']:,}"
        lines = [f"train     {self._bar(done)} {format_percent(done, 0):>4}  {steps}  ETA {eta}"]
        parts = [self._metric(metric, event["metrics"]) for metric in metrics if metric.is_shown_live]
        if any(parts):
            lines.append(_INDENT + "  ".join(filter(None, parts)))
        peak = event["metrics"].get("peak_memory_bytes")
        speed = f"{event['tokens_per_second']:,.0f} tokens/s"
        lines.append(_INDENT + speed + (f"  peak {format_bytes(peak)}" if peak else ""))
        self._draw(lines)

    def show_runs(self, steps: Mapping[str, tuple[int, int]]) -> None:
        """Show the runs of a sweep that are executed at the same time: the step of each, and their number."""
        self._draw(
            [f"{name:<9} {self._bar(step / total)}  step {step:,}/{total:,}" for name, (step, total) in steps.items()]
        )

    def write_above(self, text: str) -> None:
        """Write a line that stays, above those that are drawn again."""
        kept = self._lines
        self._erase()
        self._write(f"{text}\n")
        if kept:
            self._draw(kept)

    def leave(self) -> None:
        """Leave the lines as they are; the next ones are drawn below them."""
        self._lines = []

    def _draw(self, lines: list[str]) -> None:
        width = shutil.get_terminal_size().columns - 1
        self._erase()
        self._lines = lines
        self._write("".join(f"{line[:width]}\n" for line in lines))

    def _erase(self) -> None:
        """Go up to the first line and erase everything below."""
        if self._lines:
            self._write(f"\x1b[{len(self._lines)}A\x1b[J")
            self._lines = []

    def _metric(self, metric: Metric, values: dict[str, Any]) -> str:
        value = values.get(metric.key)
        if value is None:
            return ""
        history = self._histories.setdefault(metric.key, [])
        if not history or history[-1] != value:
            history.append(value)
        spark = f" {sparkline(history)}" if self.has_blocks and len(history) > 1 else ""
        return f"{metric.live_label} {metric.format(value)}{spark}"

    def _bar(self, done: float) -> str:
        filled = round(min(1.0, max(0.0, done)) * _BAR_WIDTH)
        full, empty = ("━", "─") if self.has_blocks else ("#", ".")
        return full * filled + empty * (_BAR_WIDTH - filled)


def sparkline(values: Sequence[float], width: int = _SPARK_WIDTH) -> str:
    """The course of the values in at most `width` characters, each for the mean of an equal share of them."""
    size = len(values) / min(width, len(values))
    starts = [round(number * size) for number in range(min(width, len(values)) + 1)]
    means = [sum(values[i:j]) / (j - i) for i, j in pairwise(starts)]
    low, high = min(means), max(means)
    if high <= low:
        return _SPARKS[0] * len(means)
    return "".join(_SPARKS[round((mean - low) / (high - low) * (len(_SPARKS) - 1))] for mean in means)
