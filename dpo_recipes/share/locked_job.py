"""What `dpo-recipe run` and `lock --check` do with a lock that lies beside a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dpo_recipes.errors import Finding, SharingError, Where, path_text
from dpo_recipes.jobs.chain_file import ValidatedChain, validate_file
from dpo_recipes.recipe.references import is_reference
from dpo_recipes.recipe.validate import Validated
from dpo_recipes.share.check import Scope, compare
from dpo_recipes.share.inputs import inputs_of
from dpo_recipes.share.lock import OnStage, check_is_own, jobs_of, make_lock
from dpo_recipes.share.lock_file import Lock, LockUse, lock_path, read_lock


class Locked(NamedTuple):
    """A job whose hub inputs are at the commits of its lock."""

    validated: Validated | ValidatedChain
    lock: Lock
    warnings: tuple[Finding, ...]


def update_lock(path: Path, validated: Validated | ValidatedChain, on_stage: OnStage) -> Lock:
    """Make the lock of a recipe and write it beside the recipe. Raises what `make_lock` raises, and S104."""
    check_is_own(path)
    lock = make_lock(validated, on_stage)
    lock.write(lock_path(path))
    return lock


def check_lock(path: Path, validated: Validated | ValidatedChain, scope: Scope, on_stage: OnStage) -> list[Finding]:
    """All differences between a recipe and the lock beside it. Raises `SharingError` S101 to S103, S105, S116."""
    place = lock_path(path)
    if not place.is_file():
        raise SharingError.of(
            "S116",
            f"{path} has no lock",
            where=Where(validated.composed.file),
            why=f"there is no {place.name} beside it",
            fix=f"make it with `dpo-recipe lock {path}`",
        )
    return compare(read_lock(place), validated, scope, on_stage)


def with_lock(
    path: Path, overrides: Sequence[str], validated: Validated | ValidatedChain, use: LockUse, on_stage: OnStage
) -> Locked:
    """A job as the lock beside its recipe describes it.

    Files of models that are missing are downloaded, and all files are read once and compared. Raises `SharingError`
    with all differences.
    """
    lock = read_lock(lock_path(path))
    found = compare(lock, validated, Scope(may_download=True, packages=use == "strict"), on_stage)
    errors = [finding for finding in found if finding.severity == "error"]
    if errors:
        raise SharingError(*errors)
    pins = pins_of(lock, validated)
    again = validate_file(path, [*overrides, *pins]) if pins else validated
    return Locked(again, lock, tuple(found))


def pins_of(lock: Lock, validated: Validated | ValidatedChain) -> list[str]:
    """The overrides, as `--set` takes them, that name the locked commit of each input from the hub."""
    pins: dict[str, str] = {}
    for job in jobs_of(validated):
        locked = lock.jobs[job.name].inputs
        for one in inputs_of(job):
            known = locked.get(one.key)
            if one.pin is not None and known is not None and known.commit is not None and not is_reference(one.path):
                prefix = f"steps.{job.name}." if job.name else ""
                pins[f"{prefix}{path_text(one.pin)}"] = known.commit
    return [f"{path}='{commit}'" for path, commit in pins.items()]
