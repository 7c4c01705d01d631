"""One run in the parent process: validate, plan, make or find the run directory, start the workers, follow them."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from dpo_recipes import registry
from dpo_recipes.errors import DpoRecipeError, Finding, RecipeError, RunError
from dpo_recipes.hardware import machine
from dpo_recipes.launch.choose import (
    LaunchFlags,
    check_devices,
    choose_backend,
    choose_batch,
    command_of,
    count_gpus,
    describe_idle,
    flags_of_retry,
    prepare_launcher,
)
from dpo_recipes.launch.files import LaunchPlan, first_plan, read_launch, write_launch
from dpo_recipes.launch.job import Job, LaunchRequest
from dpo_recipes.launch.slurm_script import gpus_of_node
from dpo_recipes.launch.slurm_settings import SlurmSettings
from dpo_recipes.recipe.checks import NOT_INSTALLED
from dpo_recipes.recipe.dump import dump_recipe
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
    on_message: Callable[[str], None] = lambda text: None,
) -> tuple[LaunchRequest, RunPlan, bool]:
    """Make the run directory with everything that the worker needs, or find the one to resume, which may be given as
    `again`. Returns the order to start it, its plan, and whether it is an earlier run. The directory is locked until
    the `stack` is closed.

    Raises `RecipeError` R316 (a library is not installed), R317 (remote code without the flag), R340 and R341
    (impossible numbers of processes) and R347 (no rendezvous), `RunError` M507 (too few GPUs), T601, T602, and with
    `resume` T611, T614 and T615.
    """
    recipe = validated.recipe
    missing = [finding for finding in validated.warnings if finding.code == NOT_INSTALLED]
    if missing:
        raise RecipeError(*(replace(finding, severity="error") for finding in missing))
    if recipe.model.trust_remote_code and not trust_remote_code:
        raise RecipeError.of(
            "R317",
            "this recipe asks to run Python code from the model's repository",
            where=validated.composed.where(("model", "trust_remote_code"), key=True),
            why="a recipe must not be able to do that by itself",
            fix="read that code, then add `--trust-remote-code` to the command",
        )
    flags, is_for_slurm = flags or LaunchFlags(), recipe.launch.backend == "slurm"
    num_gpus = gpus_of_node(recipe) if is_for_slurm else count_gpus()
    batch = choose_batch(recipe, flags, num_gpus)
    if not is_for_slurm or recipe.launch.slurm.gpus_per_node:  # otherwise a job requests as many as it needs
        check_devices(recipe, batch, num_gpus)
    backend, launch = choose_backend(recipe, batch), first_plan(recipe, batch)
    idle = describe_idle(recipe, batch, flags, num_gpus)
    if idle:
        on_message(idle)
    output_dir = find_output_dir(recipe.output_dir)
    earlier = again or (None if resume is False else find_unfinished(recipe, output_dir, on_message))
    if resume and earlier is None:
        raise nothing_to_resume(recipe, output_dir)
    if earlier is not None and again is None and stack is not None:
        earlier = _hold(earlier, stack, on_message, must=resume is True)
    run = earlier or create_run_directory(output_dir, recipe.name)
    if earlier is None and stack is not None:
        _hold(run, stack, on_message, must=True)
    counts = (batch.num_processes, batch.num_nodes)
    request = LaunchRequest(recipe, run, *counts, trust_remote_code=trust_remote_code, rendezvous=flags.rendezvous)
    try:
        plan = RunPlan(recipe.name, backend, command_of(backend, request), launch, warnings=validated.warnings)
        prepare_launcher(backend, request)
    except DpoRecipeError:
        if earlier is None:  # nothing was started
            shutil.rmtree(run.path, ignore_errors=True)  # its lock file is open, so NFS may keep a part of it
        raise
    with written_to(run):
        write_launch(run, recipe, launch)
        write_text_atomically(run.given_recipe, validated.composed.text)
        write_text_atomically(run.resolved_recipe, dump_recipe(recipe))
        write_json(run.plan, plan.to_json())
        write_json(run.environment, {**machine.describe_machine(), "packages": machine.package_versions()})
    return request, plan, earlier is not None


def _hold(
    run: RunDirectory, stack: contextlib.ExitStack, on_message: Callable[[str], None], *, must: bool
) -> RunDirectory | None:
    """The run directory, locked until the stack is closed, or None if another command was faster, unless `must` is
    set."""
    try:
        with written_to(run):
            stack.enter_context(file_lock(run.command_lock))
    except RunError as error:
        if must or error.findings[0].code != "T615":
            raise
        on_message(describe_running(run))
        return None
    return run


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

    try:
        return _run(
            validated,
            located,
            trust_remote_code=trust_remote_code,
            resume=resume,
            retries=retries,
            flags=flags,
            slurm_settings=slurm_settings,
        )
    except DpoRecipeError as error:
        raise error.located(find) from error


def _run(
    validated: Validated,
    on_event: EventHandler,
    *,
    trust_remote_code: bool,
    resume: bool | None,
    retries: int,
    flags: LaunchFlags | None,
    slurm_settings: SlurmSettings | None,
) -> dict[str, Any]:
    def on_message(text: str) -> None:
        on_event({"event": "note", "text": text})

    prepare = partial(prepare_run, validated, trust_remote_code=trust_remote_code, on_message=on_message)
    with contextlib.ExitStack() as stack:
        request, plan, is_resumed = prepare(flags=flags, resume=resume, stack=stack)
        on_event({"event": "run", "dir": str(request.run.path), "plan": plan, "resumed": is_resumed})
        at_first = request.num_processes
        uses_gpus = retries > 0 and plan.backend != "slurm" and count_gpus() > 0
        while True:
            request = replace(request, slurm_settings=slurm_settings or SlurmSettings(), on_message=on_message)
            with written_to(request.run):
                request.run.clear_events()
            start: Callable[[LaunchRequest], Job] = registry.load("launchers", plan.backend)
            try:
                follow(start(request), request, on_event)
            except (RunError, WorkerBug) as error:
                if retries == 0 or not is_transient(error):
                    raise
                if uses_gpus and count_gpus() == 0:  # a run for GPUs is not restarted on a CPU
                    raise
                retries -= 1
                on_event({"event": "retry", "error": error, "left": retries})
                before, strategy = request.num_processes, read_launch(request.run, request.recipe).strategy
                again = flags_of_retry(validated.recipe, flags, at_first, strategy)
                request, plan, _ = prepare(flags=again, again=request.run)
                if request.num_processes != before:
                    on_message(f"{request.num_processes} processes instead of {before}")
            else:
                break
    result = request.run.shared_run.result
    if not result.exists():
        return {"status": "finished", "result": "on the node of the first process"}
    return json.loads(result.read_text(encoding="utf-8"))
