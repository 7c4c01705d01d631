"""A chain as text: its graph, its steps as they begin and end, and at the end a table of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dpo_recipes.cli.options import short_path
from dpo_recipes.errors import path_text
from dpo_recipes.formats import NO_VALUE, align_columns, format_duration

if TYPE_CHECKING:
    from dpo_recipes.jobs.chain_directory import ChainDirectory
    from dpo_recipes.jobs.chain_file import ValidatedChain
    from dpo_recipes.jobs.chain_result import ChainResult, StepOutcome

_STATES = {"failed": "failed", "out_of_memory": "out of memory", "not_run": "not run"}


def describe_graph(validated: ValidatedChain) -> Iterator[str]:
    """The steps in the order of need, with what each does and makes, and below it what it takes from which step."""
    from dpo_recipes.jobs.steps.base import WITH_ARTICLE

    steps = validated.steps
    yield f"chain {validated.chain.name}: {len(steps)} step{'s' * (len(steps) != 1)}"
    names = max(len(step.name) for step in steps)
    works = [f"{step.kind.kind}: {step.kind.describe(step.checked.settings)}" for step in steps]
    width = max(map(len, works))
    for step, work in zip(steps, works, strict=True):
        yield f"  {step.name:<{names}}  {work:<{width}}  makes {WITH_ARTICLE[step.product.kind]}"
        for need in step.needs:
            last = "└─" if need is step.needs[-1] else "├─"
            yield f"  {'':<{names}}  {last} {path_text(need.at)} ← {need.step.name}"


def describe_event(event: dict[str, Any]) -> Iterator[str]:
    """What happens between the steps."""
    if event["event"] == "chain":
        yield f"chain     {short_path(event['dir'])}"
        yield f"          {' → '.join(event['steps'])}"
        if event["done"]:
            yield f"          done before, with the same inputs: {', '.join(event['done'])}"
    elif event["event"] == "chain_step":
        yield f"\nstep      {event['name']}, {event['work']}"
    else:
        if event["state"] != "finished":
            yield event["text"]
        ending = _STATES.get(event["state"], event["figures"] or "done")
        yield f"step      {event['name']}: {ending}"


def describe_chain(result: ChainResult, job: ChainDirectory) -> Iterator[str]:
    """A chain that has ended: a table of the steps, what evaluations have shown, and where to read more."""
    from dpo_recipes.jobs.chain_report import shown_at_end

    yield f"chain {result.recipe}: {result.status}"
    yield ""
    yield from _table(result.steps)
    yield ""
    for step in result.steps:
        verdicts, tables = shown_at_end(job, step)
        for table in tables:
            yield f"{step.name}: {table.caption[:1].lower()}{table.caption[1:]}"
            yield from align_columns([table.columns, *table.rows])
            yield ""
        if verdicts:
            yield from (*verdicts, "")
    for step in result.steps:
        if step.product is not None:
            yield f"{step.makes:<13} {short_path(job.path / step.product)}"
    yield f"{'report':<13} {short_path(job.report)}"


def _table(steps: list[StepOutcome]) -> Iterator[str]:
    """The steps in the order of need, with what each did, its time, and its main metrics beside those of the base."""
    rows = [["step", "work", "time", "held out"]]
    for step in steps:
        figures = [
            figure.phrase + (f" (base {figure.base_text})" if figure.base_text else "") for figure in step.figures
        ]
        ending = ", ".join(figures) or NO_VALUE if step.state == "finished" else _STATES[step.state]
        time = format_duration(step.wall_s) if step.attempts else NO_VALUE
        rows.append([step.name, f"{step.kind}: {step.work}", time, ending])
    yield from align_columns(rows)
