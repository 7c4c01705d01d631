"""`dpo-recipe report`: write the report of a run, a sweep or a chain again, or compare several runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dpo_recipes.cli.options import short_path, write_output
from dpo_recipes.cli.runs import OutputDirOption
from dpo_recipes.errors import Finding, RunError
from dpo_recipes.finished_run import FinishedRun, open_run
from dpo_recipes.jobs.chain_directory import ChainDirectory, unfinished_chain
from dpo_recipes.jobs.chain_result import ChainResult
from dpo_recipes.jobs.directory import SweepDirectory
from dpo_recipes.run_dir import RunDirectory, find_output_dir, write_text_atomically, written_to
from dpo_recipes.runs import find_job, find_run

if TYPE_CHECKING:
    from dpo_recipes.report.comparison import Comparison

Format = Literal["html", "md", "csv"]
_SUFFIXES: dict[str, Format] = {".md": "md", ".csv": "csv"}
_UNFINISHED = "T641"


def report(
    runs: Annotated[
        list[str],
        typer.Argument(help="Directories of runs, sweeps or chains, or the last parts of their names.", metavar="RUN"),
    ],
    format_: Annotated[
        Format | None,
        typer.Option("--format", help="html, md or csv. Absent: by the suffix of `--output`, else html."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="The file to write. Absent: report.html of the run, sweep or chain, or comparison.html here for "
            "several; md and csv go to stdout.",
            metavar="FILE",
        ),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="Compare by this metric instead of the objective's own.", metavar="KEY")
    ] = None,
    output_dir: OutputDirOption = "runs",
) -> None:
    """Write the report of a run, sweep or chain, or compare runs: metrics, curves, settings that differ, plan, cost."""
    folder = find_output_dir(output_dir)
    chosen = format_ or (_SUFFIXES.get(output.suffix.lower(), "html") if output else "html")
    job = find_job(runs[0], folder) if len(runs) == 1 else None
    if isinstance(job, SweepDirectory):
        from dpo_recipes.jobs.sweep_comparison import compare_sweep

        path = _write_comparison(compare_sweep(job, metric), chosen, output, job.report)
    elif isinstance(job, ChainDirectory) and chosen == "html" and metric is None:
        path = _write_chain_report(job, output)
    else:
        finished = _open(runs, folder)
        if len(finished) == 1 and chosen == "html" and metric is None:
            path = _write_report(finished[0], output)
        else:
            from dpo_recipes.report.comparison import compare_runs

            path = _write_comparison(compare_runs(finished, metric), chosen, output, Path("comparison.html"))
    if path is not None:
        typer.echo(short_path(path))


def _open(names: list[str], output_dir: Path) -> list[FinishedRun]:
    """The finished runs of these names, each once; a sweep or a chain stands for all of its finished runs.

    Unfinished ones are left out with a message, unless there is no other. Raises the errors of all others at once.
    """
    finished: dict[Path, FinishedRun] = {}
    unfinished: list[Finding] = []
    errors: list[Finding] = []
    for name in names:
        try:
            found = _find(name, output_dir)
        except RunError as error:
            (unfinished if error.findings[0].code == _UNFINISHED else errors).extend(error.findings)
        else:
            finished |= {run.run.path: run for run in found}
    if errors or not finished:
        raise RunError(*errors, *unfinished)
    for finding in unfinished:
        print(f"left out: {finding.what}, {finding.why}", file=sys.stderr)
    return list(finished.values())


def _find(name: str, output_dir: Path) -> list[FinishedRun]:
    job = find_job(name, output_dir)
    if isinstance(job, ChainDirectory):
        if not job.result.exists():
            raise unfinished_chain(job)
        directories = [job.path / step.directory for step in ChainResult.read(job.result).steps if step.directory]
        return [open_run(path) for path in directories if RunDirectory(path).resolved_recipe.is_file()]
    if not isinstance(job, SweepDirectory):
        return [open_run(find_run(name, output_dir).path)]
    from dpo_recipes.jobs.sweep_comparison import finished_runs

    return finished_runs(job)


def _write_chain_report(job: ChainDirectory, output: Path | None) -> Path:
    from dpo_recipes.jobs.chain_report import render_chain_report

    if not job.result.exists():
        raise unfinished_chain(job)
    page = render_chain_report(job, ChainResult.read(job.result))
    if output is not None:
        write_output(output, page)
        return output
    with written_to(RunDirectory(job.path)):
        write_text_atomically(job.report, page)
    return job.report


def _write_report(finished: FinishedRun, output: Path | None) -> Path:
    from dpo_recipes.report.html import render_run

    page = render_run(finished)
    if output is not None:
        write_output(output, page)
        return output
    with written_to(finished.run):
        write_text_atomically(finished.run.report, page)
    return finished.run.report


def _write_comparison(comparison: Comparison, chosen: Format, output: Path | None, usual: Path) -> Path | None:
    """Write the comparison, and its verdict to stderr. Returns the path, or None if it went to stdout."""
    from dpo_recipes.report.comparison_page import render_comparison
    from dpo_recipes.report.comparison_tables import to_csv, to_markdown
    from dpo_recipes.report.comparison_verdict import write_comparison_verdict

    render = {"html": render_comparison, "md": to_markdown, "csv": to_csv}[chosen]
    text = render(comparison)
    print(write_comparison_verdict(comparison), file=sys.stderr)
    if output is None and chosen != "html":
        typer.echo(text, nl=False)
        return None
    path = output or usual
    write_output(path, text)
    return path
