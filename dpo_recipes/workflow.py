"""One run from the parent's side: validate, plan, make the run directory, start the worker, follow it to its end."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from dpo_recipes import registry
from dpo_recipes.errors import EXIT_INTERRUPTED, DpoRecipeError, Finding, Interrupted, RecipeError, RunError
from dpo_recipes.events import EventReader
from dpo_recipes.hardware import machine
from dpo_recipes.launch.choose import (
    LaunchFlags,
    check_devices,
    choose_backend,
    choose_batch,
    command_of,
    count_gpus,
    prepare_launcher,
)
from dpo_recipes.launch.files import LaunchPlan, first_plan, write_launch
from dpo_recipes.launch.job import Job, Order
from dpo_recipes.launch.ranks import first_failure
from dpo_recipes.launch.site import Site
from dpo_recipes.launch.slurm_script import gpus_of_node
from dpo_recipes.recipe.checks import NOT_INSTALLED
from dpo_recipes.recipe.dump import dump_recipe
from dpo_recipes.recipe.validate import Validated, validate
from dpo_recipes.run_dir import RunDirectory, create_run_directory, write_json, write_text_atomically
from dpo_recipes.shipped import recipe_paths

Listener = Callable[[dict[str, Any]], None]
_POLL_S = 0.1


@dataclass(frozen=True)
class RunPlan:
    """What is decided before a worker starts."""

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


def find_recipe(reference: str) -> Path:
    """The file of a recipe given by path, or by the name of a shipped one. Raises `RecipeError` R101."""
    path, shipped = Path(reference), recipe_paths()
    if path.is_file() or path.suffix in (".yaml", ".yml") or "/" in reference:
        return path
    if reference in shipped:
        return shipped[reference]
    raise RecipeError.of(
        "R101",
        f"there is no recipe {reference}",
        why=f"it is no file here, and the shipped recipes are {', '.join(shipped)}",
        fix="give the path of a YAML file or the name of a shipped recipe",
    )


def prepare_run(
    validated: Validated, *, trust_remote_code: bool = False, flags: LaunchFlags | None = None
) -> tuple[Order, RunPlan]:
    """Make the run directory with all that the worker needs, and the order to start it.

    Raises `RecipeError` R316 (a library is not installed), R317 (remote code without the flag), R340 and R341 (numbers
    of processes that cannot be) and R347 (no place to meet), `RunError` M507 (too few GPUs), T601 and T602.
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
    if not is_for_slurm or recipe.launch.slurm.gpus_per_node:  # else a job asks for as many as it needs
        check_devices(recipe, batch, num_gpus)
    run = create_run_directory(Path(recipe.output_dir).expanduser().resolve(), recipe.name)
    counts = (batch.num_processes, batch.num_nodes)
    order = Order(recipe, run, *counts, trust_remote_code=trust_remote_code, rendezvous=flags.rendezvous)
    backend, launch = choose_backend(recipe, batch), first_plan(recipe, batch)
    try:
        plan = RunPlan(recipe.name, backend, command_of(backend, order), launch, warnings=validated.warnings)
        prepare_launcher(backend, order)
    except DpoRecipeError:  # nothing was begun
        shutil.rmtree(run.path)
        raise
    write_launch(run, recipe, launch)
    write_text_atomically(run.given_recipe, validated.composed.text)
    write_text_atomically(run.resolved_recipe, dump_recipe(recipe))
    write_json(run.plan, plan.to_json())
    write_json(run.environment, {**machine.describe_machine(), "packages": machine.package_versions()})
    return order, plan


def run_recipe(
    path: Path,
    overrides: list[str],
    listen: Listener,
    *,
    trust_remote_code: bool = False,
    flags: LaunchFlags | None = None,
    site: Site | None = None,
) -> dict[str, Any]:
    """Do the whole job; returns what stands in result.json.

    `listen` gets each event of the worker, after a first one `{"event": "run", "dir", "plan"}`. Raises every
    `DpoRecipeError` that a stage raised, `Interrupted` after Ctrl-C, and `WorkerBug` for a fault of ours.
    """
    validated = validate(path, overrides)
    order, plan = prepare_run(validated, trust_remote_code=trust_remote_code, flags=flags)
    order = replace(order, site=site or Site(), tell=lambda text: listen({"event": "note", "text": text}))
    run = order.run
    listen({"event": "run", "dir": str(run.path), "plan": plan})
    job: Job = registry.load("launchers", plan.backend)(order)
    returncode, failure = _follow(job, run, listen)
    if returncode == 0 and run.result.exists():
        return json.loads(run.result.read_text(encoding="utf-8"))
    if returncode == 0 and order.num_nodes > 1:
        return {"status": "finished", "result": "on the node of the first process"}
    # Of several processes, the one that failed first knows why.
    raise _failure(returncode, first_failure(run) or failure, run)


class WorkerBug(Exception):
    """The worker ended with an exception that is no fault of the person's; its traceback is in run.log."""


def _follow(job: Job, run: RunDirectory, listen: Listener) -> tuple[int, dict[str, Any] | None]:
    """Pass events on until the job ends; its exit code and the event of its failure."""
    reader, failure = EventReader(run.events), None
    with _forwarded_signals(job):
        returncode: int | None = None
        while returncode is None:
            returncode = job.poll()  # read once more after the end: the last events came before it
            for event in reader.new_events():
                failure = event if event["event"] == "error" else failure
                listen(event)
            if returncode is None:
                time.sleep(_POLL_S)
    return returncode, failure


@contextlib.contextmanager
def _forwarded_signals(job: Job) -> Iterator[None]:
    """The first SIGINT or SIGTERM asks the workers to stop after their step, the second ends them at once."""
    asked = 0

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            job.interrupt()
        else:
            job.kill()

    if threading.current_thread() is not threading.main_thread():
        yield  # signals belong to the main thread; whoever runs us elsewhere handles them
        return
    previous = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _failure(returncode: int, failure: dict[str, Any] | None, run: RunDirectory) -> Exception:
    if failure and failure["findings"]:
        findings = [Finding.from_json(plain) for plain in failure["findings"]]
        kind = Interrupted if EXIT_INTERRUPTED in (returncode, DpoRecipeError(*findings).exit_code) else DpoRecipeError
        return kind(*findings)
    if returncode < 0:
        return _killed(-returncode, run)
    return WorkerBug(f"{(failure or {}).get('bug') or f'the worker ended with code {returncode}'}; see {run.log}")


def _killed(number: int, run: RunDirectory) -> RunError | Interrupted:
    name = signal.Signals(number).name
    if number == signal.SIGKILL:
        return RunError.of(
            "T605",
            "the worker was killed (SIGKILL)",
            why="by a second Ctrl-C, by somebody, or by the system because memory ran out",
            fix="when memory is short: halve `training.micro_batch_size` and double `gradient_accumulation_steps`",
        )
    if number in (signal.SIGINT, signal.SIGTERM):
        return Interrupted.of(
            "I130",
            "the run was interrupted",
            why=f"{name} came before the worker was ready",
            fix="run the recipe again",
        )
    return RunError.of(
        "T605",
        f"the worker died of {name}",
        why=f"a library crashed; the last output is in {run.log}",
        fix="report it with run.log; `--set hardware.device=cpu` tells whether the GPU's driver is to blame",
    )
