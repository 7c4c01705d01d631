"""Lists the run directories below an output directory, and finds the one that a person names."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from dpo_recipes import __version__
from dpo_recipes.cache import remembered
from dpo_recipes.engine.checkpoints.folder import newest_first
from dpo_recipes.errors import DpoRecipeError, Finding, RunError
from dpo_recipes.finished_run import not_a_run
from dpo_recipes.formats import finite, utc_stamp
from dpo_recipes.jobs.chain_directory import ChainDirectory
from dpo_recipes.jobs.directory import JobDirectory, SweepDirectory
from dpo_recipes.launch.ranks import first_failure
from dpo_recipes.objectives import get_objective, loss_function
from dpo_recipes.objectives.metric import Metric
from dpo_recipes.resume import is_running, read_recipe
from dpo_recipes.run_dir import MODEL_FOLDER, RunDirectory, read_json_lines
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
    loss: str
    """The name of its loss function; empty if it cannot be read."""
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
    name, kind, loss = _recipe_facts(run)
    metric = None
    if kind:
        objective = get_objective(kind)
        metric = objective.metric(objective.best_metric)
    size, started = disk_bytes(run.path), _started(run)
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
        return RunSummary(
            run, "finished", name, kind, loss, metric, value, base, step, step, size, started, reason
        )  # fmt: skip
    if run.comparison.is_file():  # a reproduction that was ended early; no recipe would resume it
        state, reason = "finished", "it has done the first steps of another run again"
    else:
        state, reason = _state_without_result(run)
    step, num_steps, value, base = _progress(run, metric)
    return RunSummary(
        run, state, name, kind, loss, metric, value, base, step, num_steps, size, started, reason,
        can_resume=state != "running" and any(newest_first(run.checkpoints)),
    )  # fmt: skip


def _recipe_facts(run: RunDirectory) -> tuple[str, str, str]:
    """The name, the kind of objective and the loss function of a run's recipe; empty texts if it cannot be read.

    They are remembered by the state of the file, because it takes 10 ms to parse one.
    """

    def read(_: Path) -> str:
        recipe = read_recipe(run)
        return json.dumps([recipe.name, recipe.objective.kind, loss_function(recipe)] if recipe else ["", "", ""])

    try:
        facts = f"name, objective and loss of a recipe, {__version__}"
        name, kind, loss = json.loads(remembered(facts, run.resolved_recipe, read))
        get_objective(kind)  # it may be that of a package which is not installed any more
    except (OSError, ValueError, KeyError, DpoRecipeError):
        return "", "", ""
    return name, kind, loss


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


def disk_bytes(folder: Path) -> int:
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


def group_by_recipe(summaries: list[RunSummary], output_dir: Path) -> dict[str, list[RunSummary]]:
    """The runs by the first folder below the output directory, which has the name of the recipe."""
    groups: dict[str, list[RunSummary]] = {}
    for summary in summaries:
        parts = summary.run.path.relative_to(output_dir).parts
        groups.setdefault(parts[0] if parts else ".", []).append(summary)
    return groups
