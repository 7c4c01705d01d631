"""What the plan of a run predicted, beside what was measured."""

from __future__ import annotations

from dataclasses import dataclass

from dpo_recipes.formats import NO_VALUE, finite, format_bytes, format_duration, format_percent
from dpo_recipes.run_dir import RunDirectory, read_prediction
from dpo_recipes.run_result import RunResult

PLAN_NOTE = (
    "Memory is the peak of the process that needs most. The predicted time leaves out loading, saving and the report."
)
"""What a reader must know about the figures."""


@dataclass(frozen=True)
class PlanFigures:
    """Predicted and measured memory and time of one run; None for what was not predicted or not measured."""

    planned_bytes: float | None = None
    peak_bytes: float | None = None
    """Of the process that needed most, as the prediction."""
    planned_s: float | None = None
    wall_s: float | None = None
    """From the start of the worker to the report; None for a resumed run, whose earlier time is not recorded."""


@dataclass(frozen=True)
class PlanRow:
    """One predicted figure of a run, as text."""

    label: str
    planned: str
    measured: str
    deviation: str
    """Of the measured value from the planned one."""


def read_plan_figures(run: RunDirectory, result: RunResult) -> PlanFigures:
    """The figures of a run."""
    prediction = read_prediction(run)
    return PlanFigures(
        finite(prediction.get("peak_bytes")),
        finite(result.peak_memory_bytes),
        finite(prediction.get("time_s")),
        None if result.resumed_from_step else finite(result.wall_s),
    )


def list_plan_rows(figures: PlanFigures) -> list[PlanRow]:
    """The figures that were predicted, as text; none if there was no prediction."""
    rows = []
    if figures.planned_bytes is not None:
        shown = format_bytes(figures.planned_bytes), format_bytes(figures.peak_bytes)
        rows.append(PlanRow("Peak memory", *shown, describe_deviation(figures.planned_bytes, figures.peak_bytes)))
    if figures.planned_s is not None:
        shown = format_duration(figures.planned_s), format_duration(figures.wall_s)
        rows.append(PlanRow("Time of the whole run", *shown, describe_deviation(figures.planned_s, figures.wall_s)))
    return rows


def describe_deviation(planned: float | None, measured: float | None) -> str:
    """By how much the measured value is above or below the planned one, in percent of the planned one."""
    if planned is None or measured is None or planned <= 0:
        return NO_VALUE
    share = format_percent(abs(measured / planned - 1), 0)
    if share == "0%":
        return "as planned"
    return f"{share} {'more' if measured > planned else 'less'}"
