"""One run of a trial: its files, its state, and the lock by which a command claims it."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dpo_recipes.errors import DpoRecipeError, Finding
from dpo_recipes.formats import finite
from dpo_recipes.jobs.directory import SweepDirectory
from dpo_recipes.locks import is_held, try_lock
from dpo_recipes.objectives.base import Metric
from dpo_recipes.recipe.trials import Trial, chosen_trial, compose_trial, expand
from dpo_recipes.recipe.validate import Validated, validate_composed
from dpo_recipes.run_dir import RunDirectory, read_json_lines, write_json
from dpo_recipes.run_result import read_result
from dpo_recipes.supervise import WorkerBug, is_transient

RunState = Literal["finished", "failed", "out_of_memory", "pruned", "unfinished"]
OUT_OF_MEMORY = "T603"


@dataclass(frozen=True)
class TrialRun:
    """A run of a trial with one seed."""

    sweep: SweepDirectory
    number: int
    """That of its trial."""
    given: Trial | None
    """The trial, or None if its values are chosen when it starts."""
    seed_index: int
    validated: Validated
    """The recipe of the sweep."""

    @property
    def name(self) -> str:
        """The name of its files: the trial's number, and that of the seed if there are several."""
        return f"{self.number:03}" + (f"-{self.seed_index + 1}" if self.has_seeds else "")

    @property
    def trial(self) -> Trial:
        """The trial. Only if it has its values."""
        trial = self.find_trial()
        assert trial is not None, "its values are chosen when it starts"
        return trial

    def find_trial(self) -> Trial | None:
        """The trial, or None if its values have not been chosen yet."""
        sweep = self.validated.recipe.sweep
        if self.given is not None or sweep is None:
            return self.given
        chosen = self.chosen()
        return None if chosen is None else chosen_trial(sweep, self.number, chosen)

    def chosen(self) -> dict[str, int | float] | None:
        """What was chosen for each setting of the trial, as `chosen_trial` takes it; None before it was."""
        try:
            return json.loads(self._values.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def choose(self, chosen: dict[str, int | float]) -> None:
        """Record the values of the trial, as `chosen_trial` takes them, for all of its runs."""
        write_json(self._values, chosen)

    @property
    def has_seeds(self) -> bool:
        """Whether the trial has several runs with different seeds."""
        sweep = self.validated.recipe.sweep
        return sweep is not None and sweep.seeds > 1

    @property
    def seed(self) -> int:
        """`training.seed` of the run."""
        return self.compose().recipe.training.seed

    @property
    def run(self) -> RunDirectory:
        """The run directory, which may not exist yet."""
        return RunDirectory(self.sweep.trials / self.name)

    def compose(self) -> Validated:
        """The recipe of the run. Raises `RecipeError`."""
        recipe = self.validated.recipe
        return validate_composed(compose_trial(self.validated.composed, recipe, self.trial, self.seed_index))

    @property
    def state(self) -> RunState:
        """The state that its files describe."""
        if self.run.result.exists():
            return "finished"
        failure = self.failure()
        if failure is None:
            return "unfinished"
        if failure["is_pruned"]:
            return "pruned"
        return "out_of_memory" if failure["code"] == OUT_OF_MEMORY else "failed"

    @property
    def is_claimed(self) -> bool:
        """Whether a command is working on it."""
        return is_held(self._lock)

    @contextlib.contextmanager
    def claimed(self) -> Iterator[bool]:
        """Claim the run for this process, if no other has. Yields whether it did."""
        with self._lock.open("a") as lock:
            yield try_lock(lock)

    def value(self, metric: Metric) -> float | None:
        """The metric on the held-out rows; None if the run has not finished, or if it is not finite."""
        if self.state != "finished":
            return None
        return finite(read_result(self.run.shared_run.result).metrics.get(f"eval_{metric.key}"))

    def failure(self) -> dict[str, Any] | None:
        """Why it ended without a result (`code`, `reason`, `text`, `is_transient`, `is_pruned`); None if it did not."""
        try:
            return json.loads(self._failure.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def fail(self, error: DpoRecipeError | WorkerBug) -> None:
        """Record that the run has failed."""
        finding: Finding | None = error.findings[0] if isinstance(error, DpoRecipeError) else None
        code, reason = finding.code if finding else None, f"this is a bug in dpo-recipe: {error}"
        reason = finding.what if finding else reason
        self._end({"code": code, "reason": reason, "text": str(error), "is_transient": is_transient(error)})

    def prune(self, reason: str) -> None:
        """Record that the run was ended because it was worse than others."""
        self._end({"code": None, "reason": reason, "text": reason, "is_transient": False}, is_pruned=True)

    def _end(self, failure: dict[str, Any], *, is_pruned: bool = False) -> None:
        write_json(self._failure, {**failure, "is_pruned": is_pruned})

    def evaluations(self, metric: Metric) -> list[float]:
        """The metric of each evaluation during training, in their order; those that are not finite are infinite, on the
        worse side."""
        worst = -math.inf if metric.higher_is_better else math.inf
        rows = read_json_lines(self.run.shared_run.metrics)
        values = [row[f"eval_{metric.key}"] for row in rows if f"eval_{metric.key}" in row]
        return [worst if finite(value) is None else value for value in values]

    def forget_transient_failure(self) -> None:
        """Let the run be tried again if what ended it need not happen again. Only for whoever has claimed it."""
        failure = self.failure()
        if failure is not None and failure["is_transient"]:
            self._failure.unlink()

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Record the beginning and the end of an attempt. Only for whoever has claimed the run."""
        notes = read_json_lines(self._attempts)
        if notes and "started_at" in notes[-1]:  # that attempt was killed
            self._note({"ended_at": self._last_sign(notes[-1]["started_at"])})
        self._note({"started_at": time.time()})
        try:
            yield
        finally:
            self._note({"ended_at": time.time()})

    def num_attempts(self) -> int:
        """How often the run was started."""
        return sum("started_at" in note for note in read_json_lines(self._attempts))

    def seconds(self) -> float:
        """The time that all attempts took. One that was killed lasted until its worker's last sign of life."""
        times = [moment for note in read_json_lines(self._attempts) for moment in note.values()]
        if len(times) % 2:
            times.append(time.time() if self.is_claimed else self._last_sign(times[-1]))
        return sum(ended - started for started, ended in zip(times[::2], times[1::2], strict=True))

    def _last_sign(self, started: float) -> float:
        """The time of the last event of a worker, or that of the start if there is none."""
        try:
            return max(started, self.run.events.stat().st_mtime)
        except OSError:
            return started

    def _note(self, note: dict[str, float]) -> None:
        with self._attempts.open("a", encoding="utf-8") as file:
            file.write(json.dumps(note) + "\n")

    @property
    def _lock(self) -> Path:
        return self.sweep.trials / f"{self.name}.lock"

    @property
    def _failure(self) -> Path:
        return self.sweep.trials / f"{self.name}.failed.json"

    @property
    def _values(self) -> Path:
        return self.sweep.trials / f"{self.number:03}.values.json"

    @property
    def _attempts(self) -> Path:
        return self.sweep.trials / f"{self.name}.attempts.jsonl"


def runs_of(sweep: SweepDirectory, validated: Validated) -> list[TrialRun]:
    """The runs of all trials of a recipe, in their order: first all trials with the first seed, then with the second
    one, so that a sweep that ends early has compared all trials."""
    section = validated.recipe.sweep
    assert section is not None, "the recipe has a sweep"
    return [
        TrialRun(sweep, trial.number, None if section.tpe else trial, index, validated)
        for index in range(section.seeds)
        for trial in expand(validated.recipe)
    ]
