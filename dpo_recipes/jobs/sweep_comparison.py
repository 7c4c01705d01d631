"""Compares the trials of a sweep, also of one that has not ended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from dpo_recipes.errors import RunError
from dpo_recipes.finished_run import FinishedRun, open_run
from dpo_recipes.jobs.directory import SweepDirectory
from dpo_recipes.jobs.outcome import sweep_metric
from dpo_recipes.jobs.sweep_result import SweepResult
from dpo_recipes.recipe.dump import read_resolved
from dpo_recipes.recipe.trials import expand
from dpo_recipes.report.comparison import Comparison, compare_runs
from dpo_recipes.report.table import Table

_STATES = {"failed": "failed", "out_of_memory": "out of memory", "pruned": "pruned", "not_run": "not run"}


def is_sweep(path: Path) -> bool:
    """Whether a folder is the directory of a sweep."""
    return SweepDirectory(path).resolved_recipe.is_file()


def finished_runs(sweep: SweepDirectory) -> list[FinishedRun]:
    """The runs of a sweep that have a result, in the order of the trials. Raises `RunError` T642."""
    return [open_run(path.parent) for path in sorted(sweep.runs.glob("*/result.json"))]


def compare_sweep(sweep: SweepDirectory, wanted: str | None = None) -> Comparison:
    """Compare the runs of a sweep that have a result, by the metric of the sweep or by another one.

    Raises `RunError` T641 if there is none, T642 if a file cannot be read, and `RecipeError` U406 as `compare_runs`.
    """
    runs = finished_runs(sweep)
    if not runs:
        raise RunError.of(
            "T641",
            f"no run of the sweep in {sweep.path} has a result",
            why="a trial is compared when one of its runs has finished",
            fix="run the recipe again: it resumes the sweep",
        )
    recipe = read_resolved(sweep.resolved_recipe)
    comparison = compare_runs(runs, wanted or sweep_metric(recipe))
    without_result, cautions = None, comparison.cautions
    if sweep.result.exists():
        without_result = _list_others(sweep)
    elif len(runs) < (total := len(expand(recipe)) * (recipe.sweep.seeds if recipe.sweep else 1)):
        cautions = (f"The sweep is unfinished: {len(runs)} of its {total} runs have a result.", *cautions)
    return replace(comparison, title=recipe.name, cautions=cautions, without_result=without_result)


def _list_others(sweep: SweepDirectory) -> Table | None:
    """The runs of a sweep that has ended which have no result."""
    rows = list(_rows(sweep))
    columns = ["Trial", "Settings", "Seed", "State", "Reason"]
    return Table("Runs without a result", columns, rows, words=(1, 3, 4)) if rows else None


def _rows(sweep: SweepDirectory) -> Iterator[list[str]]:
    for trial in SweepResult.read(sweep.result).trials:
        values = ", ".join(f"{path} {json.dumps(value)}" for path, value in trial.values.items())
        for run in trial.runs:
            if run.state != "finished":
                reason = f"{run.code} {run.reason}" if run.code else run.reason or ""
                yield [str(trial.number), values, str(run.seed), _STATES[run.state], reason]
