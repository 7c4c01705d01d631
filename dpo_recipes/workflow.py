"""One run in the parent process: prepare it, start the workers, follow them, start them again after a failure."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from dpo_recipes.errors import DpoRecipeError, Finding, RunError, Where
from dpo_recipes.finished_run import FinishedRun, open_run
from dpo_recipes.launch.choose import LaunchFlags, count_gpus, flags_of_retry, launcher_of
from dpo_recipes.launch.files import read_launch
from dpo_recipes.launch.job import LaunchRequest
from dpo_recipes.launch.slurm_settings import SlurmSettings
from dpo_recipes.preparation import RunPlan, prepare_run
from dpo_recipes.recipe.validate import Validated
from dpo_recipes.run_dir import RunDirectory, written_to
from dpo_recipes.supervise import EventHandler, WorkerBug, follow, is_transient


@dataclass(frozen=True)
class RunOptions:
    """What the command line says about the execution of a run."""

    trust_remote_code: bool = False
    retries: int = 0
    """How often a run is started again after a transient failure."""
    flags: LaunchFlags = field(default_factory=LaunchFlags)
    slurm_settings: SlurmSettings = field(default_factory=SlurmSettings)
    reward_functions: tuple[str, ...] = ()
    """The functions that the person allows as sources of rewards, as `/path/file.py:name`."""


def run_recipe(
    validated: Validated,
    on_event: EventHandler,
    options: RunOptions | None = None,
    *,
    directory: RunDirectory | None = None,
    resume: bool | None = None,
) -> FinishedRun | None:
    """Run a recipe without a sweep. Returns the finished run, or None if another of several nodes has it.

    An unfinished run of the same recipe is resumed, unless `resume` is False; with True there must be one. If a
    `directory` is given, it is that of the run, and what it holds is resumed. After a transient failure, such as a
    killed process or a hang, the job is started again up to `options.retries` times, without GPUs that have failed.
    `on_event` gets each event of the worker, after a first one `{"event": "run", "dir", "plan", "objective",
    "resumed"}`; findings of stages get their place in the recipe's text. Raises every `DpoRecipeError` that a stage
    raised, `Interrupted` after Ctrl-C or if `on_event` asked for it, and `WorkerBug` for a bug in dpo-recipe.
    """
    assert validated.recipe.sweep is None, "`jobs.sweep.run_sweep` runs a sweep"
    find = validated.composed.where
    execution = _Execution(validated, lambda event: on_event(located(event, find)), options or RunOptions())
    try:
        return execution.run(resume=resume, directory=directory)
    except DpoRecipeError as error:
        raise error.located(find) from error


def located(event: dict[str, Any], find: Callable[[tuple[str | int, ...]], Where]) -> dict[str, Any]:
    """A worker's event. One with a finding gets its place in the recipe's text, which `find` gives for a path."""
    if event["event"] != "finding":
        return event
    return {**event, "finding": Finding.from_json(event["finding"]).located(find).to_json()}


@dataclass(frozen=True)
class _Execution:
    """A run with its attempts: what stays the same in all of them."""

    validated: Validated
    on_event: EventHandler
    options: RunOptions

    def run(self, *, resume: bool | None, directory: RunDirectory | None) -> FinishedRun | None:
        """Start the workers and follow them to the end, again after transient failures."""
        retries = self.options.retries
        with contextlib.ExitStack() as stack:
            request, plan, is_resumed = self._prepare(
                flags=self.options.flags, resume=resume, run=directory, stack=stack
            )
            kind = request.recipe.objective.kind
            first = {"event": "run", "dir": str(request.run.path), "plan": plan, "objective": kind}
            self.on_event({**first, "resumed": is_resumed})
            at_first = request.num_processes
            uses_gpus = retries > 0 and not launcher_of(plan.backend).is_remote and count_gpus() > 0
            while (error := self._attempt(request, plan)) is not None:
                # A run for GPUs is not restarted on a CPU.
                if retries == 0 or not is_transient(error) or (uses_gpus and count_gpus() == 0):
                    raise error
                retries -= 1
                self.on_event({"event": "retry", "error": str(error), "left": retries})
                request, plan = self._prepare_again(request, at_first)
        run = request.run.shared_run
        return open_run(run.path) if run.result.exists() else None

    def _prepare(self, **options: Any) -> tuple[LaunchRequest, RunPlan, bool]:
        request, plan, is_resumed = prepare_run(
            self.validated,
            trust_remote_code=self.options.trust_remote_code,
            reward_functions=self.options.reward_functions,
            on_message=self._on_message,
            **options,
        )
        request = replace(request, slurm_settings=self.options.slurm_settings, on_message=self._on_message)
        return request, plan, is_resumed

    def _prepare_again(self, request: LaunchRequest, at_first: int) -> tuple[LaunchRequest, RunPlan]:
        """The request for the next attempt, without GPUs that have failed. `at_first` are the first one's processes."""
        strategy = read_launch(request.run, request.recipe).strategy
        flags = flags_of_retry(self.validated.recipe, self.options.flags, at_first, strategy)
        again, plan, _ = self._prepare(flags=flags, run=request.run)
        if again.num_processes != request.num_processes:
            self._on_message(f"{again.num_processes} processes instead of {request.num_processes}")
        return again, plan

    def _attempt(self, request: LaunchRequest, plan: RunPlan) -> RunError | WorkerBug | None:
        """Execute the request. Returns the error with which it failed, or None."""
        with written_to(request.run):
            request.run.clear_events()
        try:
            follow(
                launcher_of(plan.backend).start(request),
                request.run,
                self.on_event,
                watchdog_minutes=request.recipe.launch.watchdog_minutes,
                num_nodes=request.num_nodes,
            )
        except (RunError, WorkerBug) as error:
            return error
        return None

    def _on_message(self, text: str) -> None:
        self.on_event({"event": "note", "text": text})
