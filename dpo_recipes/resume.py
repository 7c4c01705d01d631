"""Which unfinished run a recipe goes on with, and what stands against it."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

from dpo_recipes.errors import DpoRecipeError, RunError
from dpo_recipes.launch.batch import effective_batch
from dpo_recipes.recipe.dump import plain_recipe
from dpo_recipes.recipe.load import load_file
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.run_dir import RunDirectory

_NO_PART_OF_THE_RESULT = ("summary", "launch", "checkpoints", "tracking", "accept_advice", "output_dir")
"""Sections that may change in the middle of a run: the weights come out the same."""


def find_unfinished(recipe: Recipe, output_dir: Path) -> RunDirectory | None:
    """The newest run of this recipe that nobody is working on and that has no result; none where there is no such."""
    folder = output_dir / recipe.name
    runs = [RunDirectory(path) for path in sorted(folder.glob("*-*"), reverse=True) if path.is_dir()]
    for run in runs:
        if run.result.exists() or is_running(run):
            continue
        earlier = read_recipe(run)
        if earlier is not None and not differences(earlier, recipe):
            return run
    return None


def nothing_to_resume(recipe: Recipe, output_dir: Path) -> RunError:
    """Why `--resume` finds nothing: T615 (it still runs), T611 (the recipe has changed) or T614 (there is no run)."""
    folder = output_dir / recipe.name
    unfinished = [RunDirectory(path) for path in sorted(folder.glob("*-*"), reverse=True)]
    unfinished = [run for run in unfinished if run.resolved_recipe.exists() and not run.result.exists()]
    if not unfinished:
        return RunError.of(
            "T614",
            f"there is no unfinished run of {recipe.name} in {output_dir}",
            why="each run there has a result.json, or there is none",
            fix="leave `--resume` out: a new run begins",
        )
    run = unfinished[0]
    if is_running(run):
        return RunError.of(
            "T615",
            f"the run in {run.path} is still being executed",
            why="its worker holds run.lock",
            fix="wait for it, or stop it first; `--no-resume` begins another run beside it",
        )
    earlier = read_recipe(run)
    changed = differences(earlier, recipe) if earlier else []
    shown = "; ".join(f"`{path}` was {old!r} and is {new!r}" for path, old, new in changed[:5])
    return RunError.of(
        "T611",
        f"the recipe is not the one that the run in {run.path} began with",
        why=(shown + ("; and more" if len(changed) > 5 else "")) or "its resolved.yaml cannot be read",
        fix="put these values back, or begin anew with `--no-resume`",
    )


def read_recipe(run: RunDirectory) -> Recipe | None:
    """The recipe of a run directory; none where it cannot be read."""
    try:
        return Recipe.model_validate(load_file(run.resolved_recipe).data)
    except (DpoRecipeError, ValidationError, OSError):
        return None


def differences(earlier: Recipe, now: Recipe) -> list[tuple[str, Any, Any]]:
    """The values that decide about the result and differ, as (path, earlier, now)."""
    before, after = (dict(_leaves(_identity(recipe))) for recipe in (earlier, now))
    paths = [path for path in {**before, **after} if before.get(path) != after.get(path)]
    return [(path, before.get(path), after.get(path)) for path in paths]


def _identity(recipe: Recipe) -> dict[str, Any]:
    kept = {key: value for key, value in plain_recipe(recipe).items() if key not in _NO_PART_OF_THE_RESULT}
    return {**kept, "pairs a step": effective_batch(recipe)}


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{index}]")
    else:
        yield path, value


@contextlib.contextmanager
def held(run: RunDirectory) -> Iterator[None]:
    """Hold a run directory while working in it; the system lets go of it however the process ends.

    Raises `RunError` T615 where another process holds it.
    """
    with run.lock.open("a") as lock:
        if not _lock(lock):
            raise RunError.of(
                "T615",
                f"another process is working in {run.path}",
                why="it holds run.lock",
                fix="wait for it, or stop it first",
            )
        yield


def is_running(run: RunDirectory) -> bool:
    """Whether a process holds the run directory."""
    if not run.lock.exists():
        return False
    with run.lock.open("a") as lock:
        return not _lock(lock)


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
