"""The tables of a comparison, as texts for the page and for Markdown, and as numbers for CSV."""

from __future__ import annotations

import csv
import io
from typing import Any

from dpo_recipes.formats import NO_VALUE, format_bytes, format_count, format_duration
from dpo_recipes.objectives.metric import Metric
from dpo_recipes.report.comparison import ComparedRun, Comparison, Configuration
from dpo_recipes.report.comparison_verdict import show_difference, show_mean, write_comparison_verdict
from dpo_recipes.report.importance_table import tabulate_importances
from dpo_recipes.report.plan_rows import PLAN_NOTE, describe_deviation
from dpo_recipes.report.settings_plots import show_value
from dpo_recipes.report.table import Table

_MAX_SETTINGS_BESIDE = 6
"""More settings than these stand only in a table of their own."""
_MAX_RUNS_ACROSS = 6
"""Up to this number of configurations have a column each in the table of the settings."""
_MAX_CHARS = 60


def list_tables(comparison: Comparison) -> dict[str, Table]:
    """The tables by the name of their section: results, importances (if the settings can be judged), settings (if any
    differs), failed (if a job has runs without a result), plan and runs."""
    tables = {"results": _results(comparison)}
    importances = tabulate_importances(comparison)
    if importances is not None:
        tables["importances"] = importances
    if comparison.settings:
        tables["settings"] = _settings(comparison)
    if comparison.without_result is not None:
        tables["failed"] = comparison.without_result
    tables["plan"] = _plan(comparison)
    tables["runs"] = _runs(comparison)
    return tables


def _results(comparison: Comparison) -> Table:
    """A row for each configuration."""
    metric, beside = comparison.metric, _beside(comparison)
    others = [m for m in comparison.objective.metrics if m.is_shown_live and m != metric]
    repeated = any(len(configuration.runs) > 1 for configuration in comparison.configurations)
    columns = ["#", "Run", *map(_last_part(beside), beside)]
    columns += ["Runs"] if repeated else []
    columns += [] if metric is None else [metric.label, "From the best"]
    columns += [*(other.label for other in others), "Steps", "Training time"]
    rows = []
    for configuration in comparison.configurations:
        first = configuration.runs[0].finished.result
        row = [str(configuration.number), configuration.label]
        row += [_setting(configuration, path) for path in beside]
        row += [str(len(configuration.runs))] if repeated else []
        row += [] if metric is None else [show_mean(metric, configuration), _from_best(comparison, configuration)]
        row += [_mean_of(configuration, other) for other in others]
        rows.append([*row, format_count(first.steps), format_duration(first.train_runtime_s)])
    note = "Values on the held-out rows."
    if repeated:
        note += " ± is half of the 95% interval of the mean; steps and times are those of the first run."
    marked = None if comparison.best is None else 0
    return Table("Configurations, the best one first", columns, rows, note=note, words=(1,), marked=marked)


def _beside(comparison: Comparison) -> list[str]:
    """The settings that have a column in the table of results."""
    return list(comparison.settings) if len(comparison.settings) <= _MAX_SETTINGS_BESIDE else []


def _last_part(paths: list[str]) -> Any:
    """A function that shortens a path to its last part, unless another path has the same."""
    ends = [path.rpartition(".")[2] for path in paths]
    return lambda path: end if ends.count(end := path.rpartition(".")[2]) == 1 else path


def _setting(configuration: Configuration, path: str) -> str:
    settings = configuration.settings
    if path not in settings:
        return NO_VALUE
    text = " ".join(show_value(settings[path]).split())
    return text if len(text) <= _MAX_CHARS else f"{text[:_MAX_CHARS]}…"


def _from_best(comparison: Comparison, configuration: Configuration) -> str:
    if configuration is comparison.best:
        return "best"
    if comparison.metric is None or configuration.from_best is None:
        return NO_VALUE
    return show_difference(comparison.metric, configuration.from_best)


def _mean_of(configuration: Configuration, metric: Metric) -> str:
    values = [run.finished.result.metrics.get(f"eval_{metric.key}") for run in configuration.runs]
    known = [value for value in values if value is not None]
    return metric.format(sum(known) / len(known) if known else None)


def _settings(comparison: Comparison) -> Table:
    """The settings that differ: a column for each configuration, or for many configurations the different values."""
    configurations = comparison.configurations
    if len(configurations) <= _MAX_RUNS_ACROSS:
        rows = [[path, *(_setting(c, path) for c in configurations)] for path in comparison.settings]
        columns = ["Setting", *(f"#{c.number} {c.label}" for c in configurations)]
        return Table("The settings that differ", columns, rows, words=tuple(range(1, len(columns))))
    rows = []
    for path in comparison.settings:
        values = [_setting(configuration, path) for configuration in configurations]
        counts = {value: values.count(value) for value in values}
        shown = [f"{value} ({count})" for value, count in list(counts.items())[:10]]
        shown += [f"{len(counts) - 10} others"] if len(counts) > 10 else []
        rows.append([path, ", ".join(shown)])
    note = "In brackets: the number of configurations with this value."
    return Table("The settings that differ", ["Setting", "Values"], rows, note=note, words=(1,))


def _plan(comparison: Comparison) -> Table:
    """Predicted and measured memory and time of each run."""
    rows = []
    for number, run in _numbered(comparison):
        plan = run.plan
        rows.append(
            [
                number,
                run.label,
                format_bytes(plan.planned_bytes),
                format_bytes(plan.peak_bytes),
                describe_deviation(plan.planned_bytes, plan.peak_bytes),
                format_duration(plan.planned_s),
                format_duration(plan.wall_s),
                describe_deviation(plan.planned_s, plan.wall_s),
            ]
        )
    columns = ["#", "Run", "Memory planned", "measured", "difference", "Time planned", "measured", "difference"]
    note = f"{PLAN_NOTE} The time of a resumed run is not measured as a whole."
    return Table("Plan and measurement", columns, rows, note=note, words=(1,))


def _runs(comparison: Comparison) -> Table:
    rows = [
        [number, run.label, run.finished.result.finished_at or NO_VALUE, str(run.finished.run.path)]
        for number, run in _numbered(comparison)
    ]
    return Table("Run directories", ["#", "Run", "Finished", "Directory"], rows, words=(1, 3))


def _numbered(comparison: Comparison) -> list[tuple[str, ComparedRun]]:
    return [(str(c.number), run) for c in comparison.configurations for run in c.runs]


def to_markdown(comparison: Comparison) -> str:
    """The comparison as Markdown: verdict, cautions, tables."""
    title = f"# {comparison.title}: comparison" if comparison.title else f"# Comparison of {_count(comparison)}"
    parts = [title, write_comparison_verdict(comparison), *comparison.cautions]
    for table in list_tables(comparison).values():
        parts.append(f"## {table.caption}")
        lines = [table.columns, ["---"] * len(table.columns), *table.rows]
        parts.append("\n".join(f"| {' | '.join(map(_markdown_cell, line))} |" for line in lines))
        parts += [table.note] if table.note else []
    return "\n\n".join(parts) + "\n"


def _count(comparison: Comparison) -> str:
    count = len(comparison.runs)
    return f"{count} {'run' if count == 1 else 'runs'}"


def _markdown_cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def to_csv(comparison: Comparison) -> str:
    """One line for each run: its settings that differ, all metrics, costs and plan, as plain numbers."""
    runs = _numbered(comparison)
    settings = list(dict.fromkeys(path for _, run in runs for path in run.settings))
    metrics = list(dict.fromkeys(name for _, run in runs for name in run.finished.result.metrics))
    costs = ("steps", "train_runtime_s", "wall_s", "rows_per_second", "peak_memory_bytes")
    plans = ("planned_bytes", "planned_s")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["rank", "run", "objective", *settings, *metrics, *costs, *plans, "path"])
    for number, run in runs:
        result = run.finished.result
        writer.writerow(
            [
                number,
                run.label,
                run.finished.recipe.objective.kind,
                *(show_value(run.settings[path]) if path in run.settings else "" for path in settings),
                *(result.metrics.get(name) for name in metrics),
                *(getattr(result, name) for name in costs),
                *(getattr(run.plan, name) for name in plans),
                run.finished.run.path,
            ]
        )
    return text.getvalue()
