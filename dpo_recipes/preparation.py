"""Prepares one run before a worker starts: what is permitted, the processes, the run directory and its files."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Sequence
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
    describe_idle,
    launcher_of,
    num_gpus_of_node,
)
from dpo_recipes.launch.files import LaunchPlan, first_plan, write_launch
from dpo_recipes.launch.job import LaunchRequest
from dpo_recipes.objectives import objective_of
from dpo_recipes.recipe.checks import OF_THIS_MACHINE
from dpo_recipes.recipe.dump import dump_recipe
from dpo_recipes.recipe.reward_checks import check_allowed
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.validate import Validated
from dpo_recipes.resume import describe_running, file_lock, find_unfinished, nothing_to_resume, wait_for_workers
from dpo_recipes.run_dir import (
    RunDirectory,
    create_directory,
    create_run_directory,
    find_output_dir,
    write_json,
    write_text_atomically,
    written_to,
)

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
            "pairs_per_step": self.launch.batch.rows_per_step,
            "num_processes": self.launch.batch.num_processes,
            "launch": self.launch.to_json(),
            "warnings": [finding.to_json() for finding in self.warnings],
        }


def prepare_run(  # noqa: PLR0913
    validated: Validated,
    *,
    trust_remote_code: bool = False,
    reward_functions: Sequence[str] = (),
    flags: LaunchFlags | None = None,
    resume: bool | None = False,
    run: RunDirectory | None = None,
    stack: contextlib.ExitStack | None = None,
    on_message: OnMessage = lambda text: None,
) -> tuple[LaunchRequest, RunPlan, bool]:
    """Make the run directory with everything that the worker needs, or find the one to resume. If `run` is given, it is
    that directory, new or not. Returns the request to start it, its plan, and whether it is an earlier run. The
    directory is locked until the `stack` is closed.

    Raises `RecipeError` R316 (a library is not installed), R317 (remote code without the flag), R340 and R341
    (impossible numbers of processes), R347 (no rendezvous) and R380 (a tracker without a login), `RunError` M507 (too
    few GPUs), T601, T602, and with `resume` T611, T614 and T615.
    """
    recipe, flags = validated.recipe, flags or LaunchFlags()
    check_permitted(validated, trust_remote_code=trust_remote_code, reward_functions=reward_functions)
    batch = _choose_processes(recipe, flags, on_message)
    backend = choose_backend(recipe, batch)
    output_dir = find_output_dir(recipe.output_dir)
    if run is None:
        earlier = _find_earlier(recipe, output_dir, resume, stack, on_message)
    else:
        earlier = _reopen(run, stack, on_message)
    run = earlier or _create(recipe, run, output_dir, stack, on_message)
    counts = (batch.num_processes, batch.num_nodes)
    request = LaunchRequest(
        recipe, run, *counts, trust_remote_code=trust_remote_code, reward_functions=tuple(reward_functions),
        rendezvous=flags.rendezvous,
    )  # fmt: skip
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


def check_permitted(validated: Validated, *, trust_remote_code: bool, reward_functions: Sequence[str] = ()) -> None:
    """Raise `RecipeError` R316, R317, R380 or R386 for what a recipe or a trial of its sweep may ask for, but not every
    machine and person allows."""
    check_machine(validated.warnings)
    if validated.remote_code is not None and not trust_remote_code:
        raise RecipeError.of(
            "R317",
            "this recipe asks to run Python code from the model's repository",
            where=validated.remote_code,
            why="a recipe must not be able to do that by itself",
            fix="read that code, then add `--trust-remote-code` to the command",
        )
    sources = objective_of(validated.recipe).rewards(validated.recipe.objective)
    check_allowed(sources, reward_functions, ("objective", "rewards"), validated.composed)


def check_machine(warnings: Sequence[Finding]) -> None:
    """Raise `RecipeError` R316 or R380 for what checks have warned about and this machine lacks."""
    missing = [finding for finding in warnings if finding.code in OF_THIS_MACHINE]
    if missing:
        raise RecipeError(*(replace(finding, severity="error") for finding in missing))


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


def _reopen(run: RunDirectory, stack: contextlib.ExitStack | None, on_message: OnMessage) -> RunDirectory | None:
    """The run directory, locked, if a run was started in it."""
    if not run.resolved_recipe.exists():
        return None
    wait_for_workers(run, on_message)
    return _hold(run, stack, on_message, must=True)


def _create(
    recipe: Recipe,
    run: RunDirectory | None,
    output_dir: Path,
    stack: contextlib.ExitStack | None,
    on_message: OnMessage,
) -> RunDirectory:
    """A new run directory, locked."""
    if run is None:
        run = create_run_directory(output_dir, recipe.name)
    else:
        create_directory(run.path, output_dir)
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
