"""The output of `dpo-recipe runs` in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from dpo_recipes.artifacts.origin import read_origin
from dpo_recipes.cli.options import short_path
from dpo_recipes.cli.progress import describe_held_out
from dpo_recipes.errors import printable
from dpo_recipes.formats import NO_VALUE, format_bytes, format_count, format_duration, format_time
from dpo_recipes.objectives import get_objective
from dpo_recipes.run_result import RunResult
from dpo_recipes.runs import RunSummary, disk_bytes, group_by_recipe


def describe_runs(summaries: list[RunSummary], output_dir: Path) -> Iterator[str]:
    """The runs as a table, with a heading for each recipe."""
    columns = [_cells(summary, output_dir) for summary in summaries]
    widths = [max(map(len, column)) for column in zip(*columns, strict=True)]
    for number, (name, group) in enumerate(group_by_recipe(summaries, output_dir).items()):
        if number:
            yield ""
        yield name
        for summary in group:
            cells = [text.ljust(width) for text, width in zip(_cells(summary, output_dir), widths, strict=True)]
            yield f"  {'  '.join(cells)}".rstrip()
            if summary.reason:
                yield f"      {summary.reason}"


def _cells(summary: RunSummary, output_dir: Path) -> list[str]:
    parts = summary.run.path.relative_to(output_dir).parts
    return [
        "/".join(parts[1:]) or ".",
        summary.state,
        summary.objective,
        _metric(summary),
        _steps(summary),
        format_bytes(summary.size_bytes),
        describe_age(summary.started),
    ]


def _metric(summary: RunSummary) -> str:
    if summary.metric is None or summary.value is None:
        return NO_VALUE
    return f"{summary.metric.live_label} {summary.metric.format(summary.value)}"


def _steps(summary: RunSummary) -> str:
    if summary.step is None:
        return NO_VALUE
    if summary.state == "finished" or summary.num_steps is None:
        return f"{format_count(summary.step)} steps"
    return f"{format_count(summary.step)} of {format_count(summary.num_steps)} steps"


def describe_age(moment: datetime, now: datetime | None = None) -> str:
    """The time since a moment, in its largest unit."""
    minutes = max(0.0, ((now or datetime.now(UTC)) - moment).total_seconds() / 60)
    if minutes < 60:
        return f"{minutes:.0f} min"
    if minutes < 48 * 60:
        return f"{minutes / 60:.0f} h"
    return f"{minutes / 60 / 24:.0f} days"


def describe_run(summary: RunSummary, result: RunResult | None) -> Iterator[str]:
    """One run, line by line."""
    yield f"run       {short_path(summary.run.path)}"
    yield f"state     {summary.state}{': ' + summary.reason if summary.reason else ''}"
    yield f"recipe    {summary.recipe or NO_VALUE} ({summary.objective or 'its resolved.yaml cannot be read'})"
    if (origin := read_origin(summary.run)) is not None:
        yield f"origin    {printable(origin['reference'])}, {printable(origin['digest'])}"
    started = format_time(summary.started.isoformat())
    yield f"started   {started}, {describe_age(summary.started)} ago"
    yield f"steps     {_steps(summary)}"
    if result is None:
        yield f"held out  {_metric(summary)}"
    else:
        held_out = describe_held_out(result, get_objective(summary.objective)) if summary.objective else ""
        yield f"held out  {held_out or NO_VALUE}"
        yield f"time      {format_duration(result.wall_s)}, of it training {format_duration(result.train_runtime_s)}"
        yield f"memory    peak {format_bytes(result.peak_memory_bytes)}"
    yield f"size      {format_bytes(summary.size_bytes)}"
    run = summary.run
    for name, path in (("model", run.path / "model"), ("report", run.report), ("log", run.log)):
        if path.exists():
            yield f"{name:<9} {short_path(path)}"


def describe_removal(summaries: list[RunSummary], output_dir: Path, remains: Sequence[Path] = ()) -> Iterator[str]:
    """The runs that would be removed, the folders that remain of sweeps that keep only the best, and the space that
    this frees."""
    if summaries:
        noun = "run" if len(summaries) == 1 else "runs"
        yield from describe_runs(summaries, output_dir)
        yield f"\n{len(summaries)} {noun}, {format_bytes(sum(summary.size_bytes for summary in summaries))}"
    if remains:
        size = format_bytes(sum(map(disk_bytes, remains)))
        yield f"left by sweeps with `keep: best`, {size}:"
        yield from (f"  {short_path(folder)}" for folder in remains)
