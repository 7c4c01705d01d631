"""One run in the parent process: validate, plan, make or find the run directory, start the workers, follow them."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dpo_recipes.errors import DpoRecipeError, Finding, RecipeError, RunError
from dpo_recipes.hardware import machine
from dpo_recipes.launch.batch import BatchPlan
from dpo_recipes.launch.choose import (
    LaunchFlags,
    check_devices,
    choose_backend,
    choose_batch,
    count_gpus,
    describe_idle,
    flags_of_retry,
    launcher_of,
    num_gpus_of_node,
)
from dpo_recipes.launch.files import LaunchPlan, first_plan, read_launch, write_launch
from dpo_recipes.launch.job import LaunchRequest
from dpo_recipes.launch.slurm_settings import SlurmSettings
from dpo_recipes.recipe.checks import NOT_INSTALLED
from dpo_recipes.recipe.dump import dump_recipe
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.validate import Validated, validate
from dpo_recipes.resume import describe_running, file_lock, find_unfinished, nothing_to_resume
from dpo_recipes.run_dir import (
    RunDirectory,
    create_run_directory,
    find_output_dir,
    write_json,
    write_text_atomically,
    written_to,
)
from dpo_recipes.supervise import EventHandler, WorkerBug, follow, is_transient

OnMessage = Callable[[str], None]


@dataclass(frozen=True)
class RunPlan:
    """Decisions that are made before a worker starts."""

    recipe: str
    backend: str
    command: list[str]
    launch: LaunchPlan
    warnings: tuple[Finding, ...]

    def to_json(self) -> dict[str, Any]:
        """The plan as plain data."""
        return {
            "recipe": self.recipe,
            "backend": self.backend,
            "command": self.command,
            "pairs_per_step": self.launch.batch.pairs_per_step,
            "num_processes": self.launch.batch.num_processes,
            "launch": self.launch.to_json(),
            "warnings": [finding.to_json() for finding in self.warnings],
        }


def prepare_run(
    validated: Validated,
    *,
    trust_remote_code: bool = False,
    flags: LaunchFlags | None = None,
    resume: bool | None = False,
    again: RunDirectory | None = None,
    stack: contextlib.ExitStack | None = None,
    on_message: OnMessage = lambda text: None,
) -> tuple[LaunchRequest, RunPlan, bool]:
    """Make the run directory with everything that the worker needs, or find the one to resume, which may be given as
    `again`. Returns the request to start it, its plan, and whether it is an earlier run. The directory is locked until
    the `stack` is closed.

    Raises `RecipeError` R316 (a library is not installed), R317 (remote code without the flag), R340 and R341
    (impossible numbers of processes) and R347 (no rendezvous), `RunError` M507 (too few GPUs), T601, T602, and with
    `resume` T611, T614 and T615.
    """
    recipe, flags = validated.recipe, flags or LaunchFlags()
    _check_permitted(validated, trust_remote_code=trust_remote_code)
    batch = _choose_processes(recipe, flags, on_message)
    backend = choose_backend(recipe, batch)
    output_dir = find_output_dir(recipe.output_dir)
    earlier = again or _find_earlier(recipe, output_dir, resume, stack, on_message)
    run = earlier or _create(recipe, output_dir, stack, on_message)
    counts = (batch.num_processes, batch.num_nodes)
    request = LaunchRequest(recipe, run, *counts, trust_remote_code=trust_remote_code, rendezvous=flags.rendezvous)
    try:
        command = launcher_of(backend).command(request)
        launcher_of(backend).prepare(request)
    except DpoRecipeError:
        if earlier is None:  # nothing was started
            shutil.rmtree(run.path, ignore_errors=True)  # its lock file is open, so NFS may keep a part of it
        raise
    plan = RunPlan(recipe.name, backend, command, first_plan(recipe, batch), validated.warnings)
    _write_files(run, validated, plan)
    return request, plan, earlier is not None


def _check_permitted(validated: Validated, *, trust_remote_code: bool) -> None:
    """Raise `RecipeError` R316 or R317 for what a recipe may ask for, but not every machine and person allows."""
    missing = [finding for finding in validated.warnings if finding.code == NOT_INSTALLED]
    if missing:
        raise RecipeError(*(replace(finding, severity="error") for finding in missing))
    if validated.recipe.model.trust_remote_code and not trust_remote_code:
        raise RecipeError.of(
            "R317",
            "this recipe asks to run Python code from the model's repository",
            where=validated.composed.where(("model", "trust_remote_code"), key=True),
            why="a recipe must not be able to do that by itself",
            fix="read that code, then add `--trust-remote-code` to the command",
        )


def _choose_processes(recipe: Recipe, flags: LaunchFlags, on_message: OnMessage) -> BatchPlan:
    """The processes of the run and their micro-batches. Reports GPUs that are left out."""
    num_gpus = num_gpus_of_node(recipe)
    batch = choose_batch(recipe, flags, num_gpus)
    check_devices(recipe, batch, num_gpus)
    idle = describe_idle(recipe, batch, flags, num_gpus)
    if idle:
        on_message(idle)
    return batch


def _find_earlier(
    recipe: Recipe,
    output_dir: Path,
    resume: bool | None,
    stack: contextlib.ExitStack | None,
    on_message: OnMessage,
) -> RunDirectory | None:
    """The run to resume, locked; None to start a new one. If `resume` is True, there must be one."""
    if resume is False:
        return None
    earlier = find_unfinished(recipe, output_dir, on_message)
    if earlier is None:
        if resume:
            raise nothing_to_resume(recipe, output_dir)
        return None
    return _hold(earlier, stack, on_message, must=resume is True)


def _create(
    recipe: Recipe, output_dir: Path, stack: contextlib.ExitStack | None, on_message: OnMessage
) -> RunDirectory:
    """A new run directory, locked."""
    run = create_run_directory(output_dir, recipe.name)
    _hold(run, stack, on_message, must=True)
    return run


def _hold(
    run: RunDirectory, stack: contextlib.ExitStack | None, on_message: OnMessage, *, must: bool
) -> RunDirectory | None:
    """The run directory, locked until the stack is closed, if there is one. None if another command was faster, unless
    `must` is set."""
    if stack is None:
        return run
    try:
        with written_to(run):
            stack.enter_context(file_lock(run.command_lock))
    except RunError as error:
        if must or error.findings[0].code != "T615":
            raise
        on_message(describe_running(run))
        return None
    return run


def _write_files(run: RunDirectory, validated: Validated, plan: RunPlan) -> None:
    """Write what the worker reads, and what describes the run."""
    recipe = validated.recipe
    with written_to(run):
        write_launch(run, recipe, plan.launch)
        write_text_atomically(run.given_recipe, validated.composed.text)
        write_text_atomically(run.resolved_recipe, dump_recipe(recipe))
        write_json(run.plan, plan.to_json())
        write_json(run.environment, {**machine.describe_machine(), "packages": machine.package_versions()})


def run_recipe(  # noqa: PLR0913
    path: Path,
    overrides: list[str],
    on_event: EventHandler,
    *,
    trust_remote_code: bool = False,
    resume: bool | None = None,
    retries: int = 0,
    flags: LaunchFlags | None = None,
    slurm_settings: SlurmSettings | None = None,
) -> dict[str, Any]:
    """Run the whole job. Returns the content of result.json.

    An unfinished run of the same recipe is resumed, unless `resume` is False; with True there must be one. After a
    transient failure, such as a killed process or a hang, the job is started again up to `retries` times, without GPUs
    that have failed. `on_event` gets each event of the worker, after a first one `{"event": "run", "dir", "plan",
    "resumed"}`; findings of stages get their place in the recipe's text. Raises every `DpoRecipeError` that a stage
    raised, `Interrupted` after Ctrl-C, and `WorkerBug` for a bug in dpo-recipe.
    """
    validated = validate(path, overrides)
    find = validated.composed.where

    def located(event: dict[str, Any]) -> None:
        if event["event"] == "finding":
            event = {**event, "finding": Finding.from_json(event["finding"]).located(find).to_json()}
        on_event(event)

    execution = _Execution(
        validated,
        located,
        trust_remote_code=trust_remote_code,
        flags=flags or LaunchFlags(),
        slurm_settings=slurm_settings or SlurmSettings(),
    )
    try:
        return execution.run(resume=resume, retries=retries)
    except DpoRecipeError as error:
        raise error.located(find) from error


@dataclass(frozen=True)
class _Execution:
    """A run with its attempts: what stays the same in all of them."""

    validated: Validated
    on_event: EventHandler
    trust_remote_code: bool
    flags: LaunchFlags
    slurm_settings: SlurmSettings

    def run(self, *, resume: bool | None, retries: int) -> dict[str, Any]:
        """Start the workers and follow them to the end, again after transient failures. Returns result.json."""
        with contextlib.ExitStack() as stack:
            request, plan, is_resumed = self._prepare(flags=self.flags, resume=resume, stack=stack)
            self.on_event({"event": "run", "dir": str(request.run.path), "plan": plan, "resumed": is_resumed})
            at_first = request.num_processes
            uses_gpus = retries > 0 and not launcher_of(plan.backend).is_remote and count_gpus() > 0
            while (error := self._attempt(request, plan)) is not None:
                # A run for GPUs is not restarted on a CPU.
                if retries == 0 or not is_transient(error) or (uses_gpus and count_gpus() == 0):
                    raise error
                retries -= 1
                self.on_event({"event": "retry", "error": error, "left": retries})
                request, plan = self._prepare_again(request, at_first)
        return _read_result(request.run)

    def _prepare(self, **options: Any) -> tuple[LaunchRequest, RunPlan, bool]:
        request, plan, is_resumed = prepare_run(
            self.validated, trust_remote_code=self.trust_remote_code, on_message=self._on_message, **options
        )
        request = replace(request, slurm_settings=self.slurm_settings, on_message=self._on_message)
        return request, plan, is_resumed

    def _prepare_again(self, request: LaunchRequest, at_first: int) -> tuple[LaunchRequest, RunPlan]:
        """The request for the next attempt, without GPUs that have failed. `at_first` are the first one's processes."""
        strategy = read_launch(request.run, request.recipe).strategy
        flags = flags_of_retry(self.validated.recipe, self.flags, at_first, strategy)
        again, plan, _ = self._prepare(flags=flags, again=request.run)
        if again.num_processes != request.num_processes:
            self._on_message(f"{again.num_processes} processes instead of {request.num_processes}")
        return again, plan

    def _attempt(self, request: LaunchRequest, plan: RunPlan) -> RunError | WorkerBug | None:
        """Execute the request. Returns the error with which it failed, or None."""
        with written_to(request.run):
            request.run.clear_events()
        try:
            follow(launcher_of(plan.backend).start(request), request, self.on_event)
        except (RunError, WorkerBug) as error:
            return error
        return None

    def _on_message(self, text: str) -> None:
        self.on_event({"event": "note", "text": text})


def _read_result(run: RunDirectory) -> dict[str, Any]:
    result = run.shared_run.result
    if not result.exists():
        return {"status": "finished", "result": "on the node of the first process"}
    return json.loads(result.read_text(encoding="utf-8"))
