"""A sweep as text: its trials as they begin and end, and at the end a table of them and the best one."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dpo_recipes.formats import NO_VALUE, align_columns, format_percent
from dpo_recipes.objectives import get_objective
from dpo_recipes.objectives.metric import Metric

if TYPE_CHECKING:
    from dpo_recipes.jobs.sweep import FinishedSweep
    from dpo_recipes.jobs.sweep_result import SweepResult, TrialOutcome

_STATES = {"failed": "failed", "out_of_memory": "out of memory", "pruned": "pruned", "not_run": "not run"}


def describe_comparison(num_runs: int, metric: Metric) -> str:
    """How many runs a sweep has, and by what its trials are compared."""
    better = "higher" if metric.higher_is_better else "lower"
    runs = f"{num_runs} run{'s' * (num_runs != 1)}"
    return f"{runs}, compared by {metric.label.lower()} on the held-out rows: {better} is better"


def describe_trial(event: dict[str, Any]) -> str:
    """The name of a trial's run, its values, and its seed if it has several."""
    values = [f"{name} {json.dumps(value)}" for name, value in event["values"].items()]
    seed = [] if event["seed"] is None else [f"seed {event['seed']}"]
    return "  ".join([event["name"], *values, *seed])


def describe_ending(event: dict[str, Any], metric: Metric) -> str:
    """The value with which the run of a trial has finished, or its state."""
    if event["state"] != "finished":
        return _STATES[event["state"]]
    return f"{metric.label.lower()} {metric.format(event['value'])}"


def describe_sweep(finished: FinishedSweep) -> list[str]:
    """The lines that a command ends with."""
    result, folder = finished.result, os.path.relpath(finished.directory.path)
    assert result.best is not None, "a sweep that failed raises an error"
    metric = get_objective(result.objective).metric(result.metric)
    return [
        "",
        *sweep_table(result, metric),
        "",
        f"best      trial {result.best.trial}{_lead(result, metric)}",
        *_what_matters(result),
        f"model     {folder}/best/model",
        f"again     dpo-recipe run {folder}/best/recipe.yaml",
        f"compare   dpo-recipe report {folder}",
    ]


def sweep_table(result: SweepResult, metric: Metric) -> list[str]:
    """The trials in their order, with their values, the metric, and a note about each."""
    names = list(dict.fromkeys(name for trial in result.trials for name in trial.values))
    has_seeds = any(len(trial.runs) > 1 for trial in result.trials)
    interval = ["95 %"] if has_seeds else []
    rows = [["trial", *_short_names(names), metric.label.lower(), *interval, ""]]
    for trial in result.trials:
        values = [json.dumps(trial.values[name]) for name in names]
        width = NO_VALUE if trial.interval is None else f"± {metric.format(trial.interval).lstrip('+')}"
        note = "best" if result.best and trial.number == result.best.trial else ""
        notes = ", ".join(part for part in (note, _failures(trial)) if part)
        rows.append([str(trial.number), *values, metric.format(trial.value), *([width] if has_seeds else []), notes])
    return list(align_columns(rows))


def _short_names(names: Sequence[str]) -> list[str]:
    """The last part of each path, or the whole path where the last part is not unique."""
    last = [name.rpartition(".")[2] for name in names]
    return [short if last.count(short) == 1 else name for short, name in zip(last, names, strict=True)]


def _failures(trial: TrialOutcome) -> str:
    """The runs of a trial that have no value."""
    states = Counter(
        _STATES[run.state] + (f" ({run.code})" if run.code else "") for run in trial.runs if run.state != "finished"
    )
    if len(trial.runs) == 1:
        return "".join(states)
    return ", ".join(f"{count} of {len(trial.runs)} runs {state}" for state, count in states.items())


def _lead(result: SweepResult, metric: Metric) -> str:
    """How much better the best trial is than the second one."""
    best = result.best
    if best is None or best.lead is None:
        return ""
    if best.is_within_noise:
        return ", but its lead is within the noise of the seeds: more of them (`seeds`) would separate the two"
    shown = metric.format(best.lead).lstrip("+")
    return f", better than the second one by {shown}"


def _what_matters(result: SweepResult) -> list[str]:
    """Which settings explain the differences between the trials beyond chance, in one line."""
    if result.importances is None:
        return []
    shown = [
        f"{' with '.join(each.settings)} ({format_percent(each.share, 0)} of the variance)"
        for each in result.importances.settings
        if each.is_shown
    ]
    return [f"matters   {', '.join(shown) or 'no setting is shown to: chance alone reaches such differences'}"]
