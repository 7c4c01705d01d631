"""Lists the run directories below an output directory, and removes those that are no longer needed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from dpo_recipes import __version__
from dpo_recipes.cache import remembered
from dpo_recipes.engine.checkpoints.folder import newest_first
from dpo_recipes.errors import DpoRecipeError, Finding, RunError
from dpo_recipes.finished_run import not_a_run
from dpo_recipes.formats import finite, utc_stamp
from dpo_recipes.jobs.chain_directory import ChainDirectory
from dpo_recipes.jobs.chain_result import ChainResult
from dpo_recipes.jobs.directory import JobDirectory, SweepDirectory
from dpo_recipes.jobs.sweep_result import SweepResult
from dpo_recipes.launch.ranks import first_failure
from dpo_recipes.launch.slurm import has_job
from dpo_recipes.objectives import get_objective
from dpo_recipes.objectives.base import Metric
from dpo_recipes.resume import file_lock, is_running, read_recipe
from dpo_recipes.run_dir import MODEL_FOLDER, RunDirectory, read_json_lines, written_to
from dpo_recipes.run_result import read_result

State = Literal["running", "unfinished", "failed", "finished"]
_MAX_DEPTH = 5
"""Folders between the output directory and a run: the recipe's name, and those of a job with several runs."""
_NO_RUNS_BELOW = {"checkpoints", MODEL_FOLDER, "ranks", "launch"}
_STAMP = re.compile(r"(\d{8}T\d{6}Z)-")


@dataclass(frozen=True)
class RunSummary:
    """One run directory in a list of runs."""

    run: RunDirectory
    state: State
    recipe: str
    """The name of the recipe; empty if resolved.yaml cannot be read."""
    objective: str
    """The kind of the objective; empty if it cannot be read."""
    metric: Metric | None
    """The objective's best metric."""
    value: float | None
    """Its value on the held-out rows: that of the result, or of the last evaluation until there is one."""
    base_value: float | None
    """That of the untouched base."""
    step: int | None
    num_steps: int | None
    size_bytes: int
    """The space that the directory takes on the disk."""
    started: datetime
    reason: str = ""
    """Why it failed or was interrupted, or why its result cannot be read."""
    can_resume: bool = False
    """Whether it has no result and has a checkpoint."""

    def to_json(self) -> dict[str, Any]:
        """The summary as plain data."""
        return {
            "path": str(self.run.path),
            "state": self.state,
            "recipe": self.recipe,
            "objective": self.objective,
            "metric": self.metric.key if self.metric else None,
            "value": self.value,
            "base_value": self.base_value,
            "step": self.step,
            "num_steps": self.num_steps,
            "size_bytes": self.size_bytes,
            "started_at": utc_stamp(self.started),
            "reason": self.reason or None,
            "can_resume": self.can_resume,
        }


def find_runs(output_dir: Path) -> Iterator[RunDirectory]:
    """The run directories below a folder, in the order of their paths. One that belongs to another of several nodes is
    left out."""
    yield from _find_below(output_dir, _MAX_DEPTH)


def _find_below(folder: Path, depth: int) -> Iterator[RunDirectory]:
    run = RunDirectory(folder)
    if run.resolved_recipe.is_file() and not run.part_of.exists():
        yield run
    if depth == 0:
        return
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        for name in names:
            if name not in _NO_RUNS_BELOW:
                yield from _find_below(folder / name, depth - 1)


def list_runs(output_dir: Path) -> list[RunSummary]:
    """All runs below a folder, the newest first."""
    return sorted(map(summarize, find_runs(output_dir)), key=lambda summary: summary.started, reverse=True)


def summarize(run: RunDirectory) -> RunSummary:
    """One run in a list of runs. A run that cannot be read is listed with the reason."""
    name, kind = _recipe_facts(run)
    metric = None
    if kind:
        objective = get_objective(kind)
        metric = objective.metric(objective.best_metric)
    size, started = _disk_bytes(run.path), _started(run)
    if run.result.is_file():
        value = base = step = None
        reason = ""
        try:
            result = read_result(run.result)
        except RunError as error:
            reason = error.findings[0].what
        else:
            step = result.steps
            if metric is not None:
                key = f"eval_{metric.key}"
                value, base = finite(result.metrics.get(key)), finite(result.base_metrics.get(key))
        return RunSummary(run, "finished", name, kind, metric, value, base, step, step, size, started, reason)
    state, reason = _state_without_result(run)
    step, num_steps, value, base = _progress(run, metric)
    return RunSummary(
        run, state, name, kind, metric, value, base, step, num_steps, size, started, reason,
        can_resume=state != "running" and any(newest_first(run.checkpoints)),
    )  # fmt: skip


def _recipe_facts(run: RunDirectory) -> tuple[str, str]:
    """The name and the kind of objective of a run's recipe; empty texts if it cannot be read.

    They are remembered by the state of the file, because it takes 10 ms to parse one.
    """

    def read(_: Path) -> str:
        recipe = read_recipe(run)
        return json.dumps([recipe.name, recipe.objective.kind] if recipe else ["", ""])

    try:
        name, kind = json.loads(remembered(f"name and objective of a recipe, {__version__}", run.resolved_recipe, read))
        get_objective(kind)  # it may be that of a package which is not installed any more
    except (OSError, ValueError, KeyError, DpoRecipeError):
        return "", ""
    return name, kind


def _state_without_result(run: RunDirectory) -> tuple[State, str]:
    if is_running(run):
        return "running", ""
    failure, _ = first_failure(run)
    if failure is None:
        return "unfinished", ""
    findings = [Finding.from_json(plain) for plain in failure["findings"]]
    reason = f"{findings[0].code} {findings[0].what}" if findings else f"a bug: {failure.get('bug')}"
    was_interrupted = bool(findings) and findings[0].code.startswith("I")
    return ("unfinished" if was_interrupted else "failed"), reason


def _progress(run: RunDirectory, metric: Metric | None) -> tuple[int | None, int | None, float | None, float | None]:
    """The last step, the planned number of steps, and the last and the first value of the metric on the held-out
    rows, which is that of the base if it was measured before the first step."""
    rows = [row for row in read_json_lines(run.metrics) if isinstance(row, dict)]
    steps = [event for event in read_json_lines(run.events) if event.get("event") == "step"]
    step = steps[-1]["step"] if steps else max((row["step"] for row in rows if "step" in row), default=None)
    key = f"eval_{metric.key}" if metric else ""
    evaluated = [row for row in rows if key in row]
    value = finite(evaluated[-1][key]) if evaluated and evaluated[-1]["step"] else None
    base = finite(evaluated[0][key]) if evaluated and not evaluated[0]["step"] else None
    return step, steps[-1]["total"] if steps else None, value, base


def _started(run: RunDirectory) -> datetime:
    """The time in the name of the run directory; of another name, that of its recipe."""
    found = _STAMP.match(run.path.name)
    if found:
        with contextlib.suppress(ValueError):
            return datetime.strptime(found[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return datetime.fromtimestamp(run.resolved_recipe.stat().st_mtime, UTC)


def _disk_bytes(folder: Path) -> int:
    """The space that the files below a folder take; a file with several names counts once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # a checkpoint that is being replaced
                state = os.lstat(os.path.join(place, name))  # noqa: PTH118  (a Path each would take most of the time)
                if (state.st_dev, state.st_ino) not in seen:
                    seen.add((state.st_dev, state.st_ino))
                    total += state.st_blocks * 512
    return total


def find_run(name: str, output_dir: Path) -> RunDirectory:
    """The run directory that a person names: by its path, by its path below `output_dir`, or by the last part of its
    name, such as the six digits. Raises `RunError` T640."""
    path = Path(name).expanduser()
    for folder in (path, output_dir / path):
        if RunDirectory(folder).resolved_recipe.is_file():
            return RunDirectory(folder.resolve()).shared_run
        if folder.exists():
            raise not_a_run(folder)
    named = [run for run in find_runs(output_dir) if run.path.name == name or run.path.name.endswith(f"-{name}")]
    if len(named) > 1:
        raise RunError.of(
            "T640",
            f"{len(named)} runs in {output_dir} are named {name}",
            why=", ".join(str(run.path.relative_to(output_dir)) for run in named[:5]),
            fix="give the path of one of them",
        )
    if not named:
        raise not_a_run(path, output_dir)
    return named[0]


def find_job(name: str, output_dir: Path) -> JobDirectory | None:
    """The directory of a sweep or a chain that a person names as a run, or None if it is none."""
    path = Path(name).expanduser()
    named = [*output_dir.glob(f"*/{name}"), *sorted(output_dir.glob(f"*/*-{name}"))] if _is_name(name) else []
    for folder in (path, output_dir / path, *named):
        for kind in (SweepDirectory, ChainDirectory):
            if kind(folder).resolved_recipe.is_file():
                return kind(folder.resolve())
    return None


def _is_name(text: str) -> bool:
    """Whether a text is part of a name, and no path or pattern."""
    return re.fullmatch(r"[\w-]+", text) is not None


def _job_of(run: RunDirectory) -> JobDirectory | None:
    """The sweep or chain that a run belongs to, if there is one."""
    for kind in (SweepDirectory, ChainDirectory):
        job = kind(run.path.parent.parent)
        if job.runs == run.path.parent and job.resolved_recipe.is_file():
            return job
    return None


def check_removable(summaries: list[RunSummary], *, unfinished: bool, best: bool, whole: Collection[Path] = ()) -> None:
    """Raise `RunError` T643 with a finding for each run that must not be removed. `whole` are the jobs that are removed
    with all of their runs."""
    findings = [
        Finding("T643", f"{summary.run.path} is not removed", why=why, fix=fix)
        for summary in summaries
        for why, fix in reasons_to_keep(summary, unfinished=unfinished, best=best, whole=whole)
    ]
    if findings:
        raise RunError(*findings)


def reasons_to_keep(
    summary: RunSummary, *, unfinished: bool, best: bool, whole: Collection[Path] = ()
) -> Iterator[tuple[str, str]]:
    """Why a run must not be removed, and what a person can do about it. `unfinished` permits runs and jobs that were
    begun and that nothing executes, `best` the best run of a sweep. `whole` are the jobs that are removed with it."""
    job = _job_of(summary.run)
    if summary.state == "running":
        yield "it is still being executed", "stop it first, or wait for it"
    elif has_job(summary.run):
        yield "a SLURM job for it waits in the queue", "cancel the job first, with `scancel`"
    elif not unfinished and summary.state == "unfinished":
        yield "it is unfinished: the same recipe would resume it", "add `--unfinished`"
    elif not unfinished and summary.can_resume:
        yield "it failed and has a checkpoint, from which the same recipe would resume it", "add `--unfinished`"
    elif isinstance(job, SweepDirectory):
        yield from _reasons_of_sweep(summary.run, job, unfinished=unfinished, best=best)
    elif isinstance(job, ChainDirectory) and job.path not in whole:
        yield from _reasons_of_chain(summary.run, job, unfinished=unfinished)


def _reasons_of_chain(run: RunDirectory, job: ChainDirectory, *, unfinished: bool) -> Iterator[tuple[str, str]]:
    if not job.result.exists():
        if not unfinished:
            yield "it is a step of an unfinished chain, which would do it again", "add `--unfinished`"
        return
    with contextlib.suppress(RunError):  # what cannot be read names no steps
        if any(step.directory and job.path / step.directory == run.path for step in ChainResult.read(job.result).steps):
            yield "it is a step of a chain, which would do it again", f"remove the whole chain: {job.path}"


def _reasons_of_sweep(
    run: RunDirectory, sweep: SweepDirectory, *, unfinished: bool, best: bool
) -> Iterator[tuple[str, str]]:
    if not sweep.result.exists():
        if not unfinished:
            yield "it is a trial of an unfinished sweep, which compares its result", "add `--unfinished`"
        return
    with contextlib.suppress(RunError):  # what cannot be read names no best run
        chosen = SweepResult.read(sweep.result).best
        if not best and chosen is not None and sweep.path / chosen.run == run.path:
            yield "it is the best run of its sweep, whose `best/model` leads to its model", "add `--best`"


@dataclass(frozen=True)
class PruneRules:
    """What `choose_removable` keeps."""

    keep: int = 1
    """The number of the newest finished runs of each recipe to keep."""
    older_than: timedelta = timedelta()
    unfinished: bool = False
    """Whether unfinished runs may be removed."""
    best: bool = False
    """Whether the best run of a recipe or a sweep may be removed."""


def choose_removable(summaries: list[RunSummary], output_dir: Path, rules: PruneRules) -> list[RunSummary]:
    """The runs that nothing needs: not the newest finished ones of their recipe, and not the best one by the
    objective's metric. Runs of a job with several runs count as those of one recipe."""
    now, chosen = datetime.now(UTC), []
    for group in group_by_recipe(summaries, output_dir).values():
        finished = sorted((s for s in group if s.state == "finished"), key=lambda s: s.started, reverse=True)
        kept = {summary.run for summary in finished[: rules.keep]}
        best = None if rules.best else _best(finished)
        for summary in group:
            is_needed = summary.run in kept or (best is not None and summary.run == best.run)
            is_young = now - summary.started < rules.older_than
            reasons = reasons_to_keep(summary, unfinished=rules.unfinished, best=rules.best)
            if not is_needed and not is_young and not any(reasons):
                chosen.append(summary)
    return chosen


def group_by_recipe(summaries: list[RunSummary], output_dir: Path) -> dict[str, list[RunSummary]]:
    """The runs by the first folder below the output directory, which has the name of the recipe."""
    groups: dict[str, list[RunSummary]] = {}
    for summary in summaries:
        parts = summary.run.path.relative_to(output_dir).parts
        groups.setdefault(parts[0] if parts else ".", []).append(summary)
    return groups


def _best(finished: list[RunSummary]) -> RunSummary | None:
    best: RunSummary | None = None
    for summary in finished:
        if summary.metric is not None and (
            best is None or summary.metric.is_better(summary.value, best.value if best else None)
        ):
            best = summary
    return best


def remove_run(run: RunDirectory, output_dir: Path) -> None:
    """Delete a run directory, and the folder of its recipe if that is empty then.

    Raises `RunError` T615 if a process works in it, and T601 if it cannot be deleted.
    """
    with written_to(run), file_lock(run.command_lock), file_lock(run.lock):
        shutil.rmtree(run.path)
    _remove_if_empty(run.path.parent, output_dir)


def remove_job(job: JobDirectory, output_dir: Path) -> None:
    """Delete the directory of a sweep or a chain after its runs were removed. Raises `RunError` T601 if it cannot be
    deleted."""
    with written_to(RunDirectory(job.path)):
        shutil.rmtree(job.path)
    _remove_if_empty(job.path.parent, output_dir)


def _remove_if_empty(folder: Path, output_dir: Path) -> None:
    if folder != output_dir and folder.is_relative_to(output_dir) and folder.name not in ("trials", "steps"):
        with contextlib.suppress(OSError):  # it has other files
            folder.rmdir()
