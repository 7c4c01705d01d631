"""Finds the unfinished run that a recipe resumes, and the reasons why it cannot."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dpo_recipes import __version__
from dpo_recipes.cache import content_key, remembered
from dpo_recipes.errors import DpoRecipeError, RunError
from dpo_recipes.launch.batch import effective_batch
from dpo_recipes.launch.ranks import followed_processes
from dpo_recipes.launch.slurm import is_executed
from dpo_recipes.locks import LOOK_EVERY_S, is_held, try_lock
from dpo_recipes.objectives import objective_of
from dpo_recipes.recipe.dump import plain_recipe, read_resolved
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.run_dir import RunDirectory

_NO_PART_OF_THE_RESULT = ("summary", "launch", "checkpoints", "tracking", "accept_advice", "output_dir")
"""Sections that may change before a run is resumed, because they do not change the weights."""
_NO_PART_OF_A_SWEEP = ("parallel", "max_hours", "keep")
_ROWS_PER_STEP = "pairs a step"
"""The key of the effective batch in `identity`. It keeps its name, because checkpoints hold a digest of it."""


def find_unfinished(recipe: Recipe, output_dir: Path, on_message: Callable[[str], None]) -> RunDirectory | None:
    """The newest run of this recipe without a result that no process is working on, or None.

    If the command of a run was killed and its workers are writing their last checkpoint, this waits for them.
    """
    wanted = content_key(identity(recipe))
    for run in _unfinished(recipe, output_dir):
        found = _identity_digest(run)
        if not found:
            on_message(f"{run.path} is unfinished, but its resolved.yaml cannot be read: it is not resumed")
        if found != wanted:
            continue
        wait_for_workers(run, on_message)
        if run.result.exists():
            continue
        if is_running(run):
            on_message(describe_running(run))
            continue
        return run
    return None


def wait_for_workers(run: RunDirectory, on_message: Callable[[str], None]) -> None:
    """Wait for the workers of a run whose command has ended, which are writing a checkpoint."""
    if is_orphaned(run):
        on_message(f"the command of {run.path} has ended, and its workers are writing a checkpoint: waiting for them")
        while is_orphaned(run):
            time.sleep(LOOK_EVERY_S)


def describe_running(run: RunDirectory) -> str:
    """The message of a command that starts another run beside this one."""
    return f"another run of this recipe is being executed in {run.path}"


def _unfinished(recipe: Recipe, output_dir: Path) -> Iterator[RunDirectory]:
    """The runs of this name that have no result, the newest first."""
    for path in sorted((output_dir / recipe.name).glob("*-*"), reverse=True):
        run = RunDirectory(path)
        if run.resolved_recipe.exists() and not run.result.exists() and not run.part_of.exists():
            yield run


def nothing_to_resume(recipe: Recipe, output_dir: Path) -> RunError:
    """Why `--resume` finds nothing: T615 (it still runs), T611 (the recipe has changed) or T614 (there is no run)."""
    run = next(_unfinished(recipe, output_dir), None)
    if run is None:
        return RunError.of(
            "T614",
            f"there is no unfinished run of {recipe.name} in {output_dir}",
            why="each run there has a result.json, or there is none",
            fix="leave `--resume` out to start a new run",
        )
    if is_running(run):
        return RunError.of(
            "T615",
            f"the run in {run.path} is still being executed",
            why="its command or its worker holds a lock there",
            fix="wait for it, or stop it first; `--no-resume` starts another run beside it",
        )
    earlier = read_recipe(run)
    return RunError.of(
        "T611",
        f"the recipe is not the one with which the run in {run.path} started",
        why=changed_values(earlier, recipe) if earlier else "its resolved.yaml cannot be read",
        fix="restore these values, or start a new run with `--no-resume`",
    )


def changed_values(earlier: Recipe, now: Recipe) -> str:
    """A text about the values that differ and change the result, or the first of them."""
    changed = differences(earlier, now)
    shown = "; ".join(f"`{path}` was {old!r} and is {new!r}" for path, old, new in changed[:5])
    return shown + ("; and more" if len(changed) > 5 else "")


def _identity_digest(run: RunDirectory) -> str:
    """`content_key` of the identity of a run's recipe; empty if it cannot be read.

    It is remembered by the state of the file: to parse one takes 20 ms, and a sweep that failed leaves thousands.
    """

    def digest(_: Path) -> str:
        earlier = read_recipe(run)
        return content_key(identity(earlier)) if earlier else ""

    return remembered(f"identity of a recipe, {__version__}", run.resolved_recipe, digest)


def read_recipe(run: RunDirectory) -> Recipe | None:
    """The recipe of a run directory, or None if it cannot be read."""
    return read_if_valid(run.resolved_recipe)


def read_if_valid(path: Path) -> Recipe | None:
    """The recipe in the file of a run or a sweep, or None if it cannot be read."""
    try:
        return read_resolved(path)
    except (DpoRecipeError, ValidationError, OSError):
        return None


def differences(earlier: Recipe, now: Recipe) -> list[tuple[str, Any, Any]]:
    """The values that differ and change the result, as (path, earlier, now)."""
    before, after = (dict(leaves(identity(recipe))) for recipe in (earlier, now))
    paths = [path for path in {**before, **after} if before.get(path) != after.get(path)]
    noun = objective_of(now).row_noun
    names = {_ROWS_PER_STEP: f"{noun}s a step"}
    return [(names.get(path, path), before.get(path), after.get(path)) for path in paths]


def identity(recipe: Recipe) -> dict[str, Any]:
    """The part of a recipe that determines the result, as plain data. Of the guards these are the ones that stop."""
    kept = {key: value for key, value in plain_recipe(recipe).items() if key not in _NO_PART_OF_THE_RESULT}
    stopping = {name: settings for name, settings in kept["guards"].items() if settings["action"] == "stop"}
    if recipe.sweep is not None:
        kept["sweep"] = {key: value for key, value in kept["sweep"].items() if key not in _NO_PART_OF_A_SWEEP}
    return {**kept, "guards": stopping, _ROWS_PER_STEP: effective_batch(recipe)}


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The single values of nested plain data, each with its path as `--set` takes it."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from leaves(inner, f"{path}[{index}]")
    else:
        yield path, value


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold one of a run directory's locks while working in it. The system releases it however the process ends.

    Raises `RunError` T615 if another process holds it.
    """
    with path.open("a") as lock:
        until = time.monotonic() + LOOK_EVERY_S
        while not (is_ours := try_lock(lock)) and time.monotonic() < until:
            time.sleep(0.01)  # the other process may only be checking the lock
        if not is_ours:
            raise RunError.of(
                "T615",
                f"another process is working in {path.parent}",
                why=f"it holds {path.name}",
                fix="wait for it, or stop it first",
            )
        yield


def is_running(run: RunDirectory) -> bool:
    """Whether a command or a worker has locked the run directory, or SLURM executes it."""
    return is_held(run.lock) or is_held(run.command_lock) or is_executed(run)


def is_orphaned(run: RunDirectory) -> bool:
    """Whether workers on this machine still execute a run whose command has ended."""
    return not is_held(run.command_lock) and any(followed_processes(run))
