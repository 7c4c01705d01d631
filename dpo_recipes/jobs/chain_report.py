"""The report of a chain, from its result."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from dpo_recipes import registry
from dpo_recipes.errors import RunError
from dpo_recipes.formats import NO_VALUE, format_count, format_duration
from dpo_recipes.jobs.chain_directory import ChainDirectory
from dpo_recipes.jobs.chain_result import ChainResult, StepOutcome
from dpo_recipes.jobs.steps.base import StepKind
from dpo_recipes.report.chain_page import StepSection, render_chain
from dpo_recipes.report.table import Table
from dpo_recipes.run_dir import RunDirectory

_Read = TypeVar("_Read")
_STATES = {"finished": "finished", "failed": "failed", "not_run": "not run"}


def render_chain_report(job: ChainDirectory, result: ChainResult) -> str:
    """The report of a chain, as the text of one HTML file."""
    verdicts = [_verdict(result), *(sentence for step in result.steps for sentence in shown_at_end(job, step)[0])]
    sections = [_section(job, step) for step in result.steps]
    return render_chain(result.recipe, result.status, verdicts, [_results(result), *_rounds(result)], sections)


def _verdict(result: ChainResult) -> str:
    failed = [step.name for step in result.steps if step.state == "failed"]
    time = format_duration(result.wall_s)
    if not failed:
        return f"All {format_count(len(result.steps))} steps have finished. They took {time}."
    return f"{' and '.join(failed)} failed. The steps took {time}."


def _results(result: ChainResult) -> Table:
    rows = [
        [
            step.name,
            step.work,
            _STATES[step.state],
            format_duration(step.wall_s) if step.attempts else NO_VALUE,
            ", ".join(figure.phrase for figure in step.figures) or NO_VALUE,
        ]
        for step in result.steps
    ]
    note = "Each step is measured by the metrics of its own objective on its own held-out rows."
    return Table("Steps in the order of need", ["Step", "Work", "State", "Time", "Held out"], rows, note, (1, 2, 4))


def _rounds(result: ChainResult) -> list[Table]:
    """The figures of each step that is done in several rounds, round by round."""
    tables = []
    for title in dict.fromkeys(step.title for step in result.steps if step.round is not None):
        steps = [step for step in result.steps if step.title == title and step.round is not None]
        labels = dict.fromkeys(figure.label for step in steps for figure in step.figures)
        if len(steps) < 2 or not labels:
            continue
        rows = []
        for step in steps:
            texts = {figure.label: figure.text for figure in step.figures}
            rows.append([str(step.round), *(texts.get(label, NO_VALUE) for label in labels)])
        tables.append(Table(f"{title} in each round", ["Round", *labels], rows))
    return tables


def _section(job: ChainDirectory, step: StepOutcome) -> StepSection:
    code = f" ({step.code})" if step.code else ""
    report = None if step.directory is None else f"{step.directory}/{RunDirectory(job.path).report.name}"
    rows = [[figure.label, figure.text, figure.base_text or NO_VALUE] for figure in step.figures]
    return StepSection(
        step.name,
        f"{step.kind}: {step.work}",
        step.needs,
        f"{step.reason}{code}" if step.reason else "",
        _tables(job, step)
        or ([Table(f"{step.name} on the held-out rows", ["Metric", "Tuned", "Base"], rows)] if rows else []),
        report if report is not None and (job.path / report).is_file() else None,
        step.product,
    )


def shown_at_end(job: ChainDirectory, step: StepOutcome) -> tuple[list[str], list[Table]]:
    """The sentences and tables with which the kind of a step ends. None if its run is not there any more."""
    return _of_kind(job, step, lambda kind, run: kind.shown_at_end(run)) or ([], [])


def _tables(job: ChainDirectory, step: StepOutcome) -> list[Table]:
    """The tables of the kind of the step. None if its run is not there any more."""
    return _of_kind(job, step, lambda kind, run: kind.tables(run)) or []


def _of_kind(job: ChainDirectory, step: StepOutcome, read: Callable[[StepKind, RunDirectory], _Read]) -> _Read | None:
    if step.directory is None or step.state != "finished":
        return None
    try:
        return read(registry.load("step_kinds", step.kind), RunDirectory(job.path / step.directory))
    except (KeyError, RunError):  # a kind of a package that is not installed; a run that was removed or is damaged
        return None
