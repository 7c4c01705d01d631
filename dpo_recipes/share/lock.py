"""Makes the lock of a recipe or a chain: what its inputs are now, by their content."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

from dpo_recipes import __version__
from dpo_recipes.cache import cache_folder
from dpo_recipes.data.store import rows_sha256
from dpo_recipes.errors import DpoRecipeError, SharingError
from dpo_recipes.hardware import machine
from dpo_recipes.jobs.chain_file import ValidatedChain
from dpo_recipes.jobs.steps.train import KIND as TRAIN
from dpo_recipes.prepared_data import rows_of
from dpo_recipes.recipe.paths import parent_of
from dpo_recipes.recipe.references import placed
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.validate import Validated
from dpo_recipes.share.content import describe
from dpo_recipes.share.inputs import Input, Job, inputs_of, takes_rows_of_a_step
from dpo_recipes.share.lock_file import Device, Lock, LockedJob, LockedRows, MadeOn, sha256_of_values
from dpo_recipes.shipped import recipes_folder

OnStage = Callable[[str, str], None]
"""Gets the name of a stage and a detail."""
DECIDING: tuple[str, ...] = (
    "dpo-recipe",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "tokenizers",
    "numpy",
)
"""The packages whose versions may change any result. `packages_of` adds those that only some jobs use."""
_OF_BITSANDBYTES = re.compile(r"8bit|paged|bnb|ademamix")
"""Parts of the names of optimizers that are those of bitsandbytes."""
LOCAL = "local"
"""Stands for a local path in the values of a lock: elsewhere, the same content may have another place."""


def jobs_of(validated: Validated | ValidatedChain) -> list[Job]:
    """The single run of a recipe, or the steps of a chain."""
    if isinstance(validated, ValidatedChain):
        return [Job(step.name, step.kind, step.checked.settings, step.checked.composed) for step in validated.steps]
    return [Job("", TRAIN, validated.recipe, validated.composed)]


def name_of(validated: Validated | ValidatedChain) -> str:
    """The name of a recipe or a chain."""
    return validated.chain.name if isinstance(validated, ValidatedChain) else validated.recipe.name


def make_lock(validated: Validated | ValidatedChain, on_stage: OnStage) -> Lock:
    """The lock of a job with its inputs as they are now.

    No weights are loaded, and those on the hub are not downloaded; data are read, because their rows are locked too.
    Raises `SharingError` S109 to S113, and `DataError`.
    """
    jobs = jobs_of(validated)
    locked = {job.name: _lock_job(job, on_stage) for job in jobs}
    is_chain = isinstance(validated, ValidatedChain)
    return Lock(
        name=name_of(validated),
        recipe_sha256=sha256_of_values(locked),
        made_with=__version__,
        made_on=this_machine(jobs),
        packages=packages_of(jobs),
        recipe=None if is_chain else locked[""],
        steps=locked if is_chain else None,
    )


def check_is_own(recipe: Path) -> None:
    """Raise `SharingError` S104 for a recipe of an installed dpo-recipe or of an artifact in the cache: a lock beside
    it would be lost."""
    folder = recipe.resolve().parent
    if folder == recipes_folder() and folder.is_relative_to(Path(__file__).parents[1]):
        owner, fix = "the installed package", f"copy it first: `dpo-recipe cp {recipe.stem}`, then lock the copy"
    elif folder.is_relative_to(cache_folder().resolve()):
        owner, fix = "the cache", "unpack the artifact into a folder of yours (it is a tar), and lock the recipe there"
    else:
        return
    raise SharingError.of(
        "S104", f"no lock is written beside {recipe.name}", why=f"the folder {folder} belongs to {owner}", fix=fix
    )


def values_of(job: Job) -> dict[str, Any]:
    """The settings that determine the result of a job, as plain data in which local paths are only `local`."""
    values = job.kind.identity(job.settings)
    places = {at: _without_folder(parent_of(values, at)[at[-1]]) for at in job.kind.inputs(job.settings)}
    return json.loads(json.dumps(placed(values, places)))


def lock_rows(job: Job, on_stage: OnStage) -> dict[str, LockedRows]:
    """The rows of each split of a job that trains. Raises `DataError`."""
    if not isinstance(job.settings, Recipe) or takes_rows_of_a_step(job):
        return {}
    on_stage("data", f"reading rows{_of_step(job)}")
    files = rows_of(job.settings).rows
    return {name: LockedRows(rows=len(rows), sha256=rows_sha256(rows.path)) for name, rows in files.items()}


def this_machine(jobs: Iterable[Job]) -> MadeOn:
    """The kind of device that the jobs compute on here, and its name."""
    wanted = {job.settings.hardware.device for job in jobs if isinstance(job.settings, Recipe)}
    found = [device for device in get_args(Device) if device in wanted]
    device: Device = found[0] if len(found) == 1 and "auto" not in wanted else machine.device_kind()
    gpus = machine.gpu_names()
    name = gpus[0] if device == "cuda" and gpus else machine.cpu_name()
    system = f"{platform.system()} {platform.machine()}"
    return MadeOn(device=device, name=name, system=system, python=platform.python_version())


def packages_of(jobs: Iterable[Job]) -> dict[str, str]:
    """The versions of the packages that decide the results of some jobs, those that are installed."""
    wanted = list(DECIDING)
    recipes = [job.settings for job in jobs if isinstance(job.settings, Recipe)]
    if any(
        recipe.model.quantization is not None or _OF_BITSANDBYTES.search(recipe.training.optimizer)
        for recipe in recipes
    ):
        wanted.append("bitsandbytes")
    if any(each.launch.strategy.startswith("deepspeed") for each in recipes):
        wanted.append("deepspeed")
    found = {}
    for name in wanted:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _lock_job(job: Job, on_stage: OnStage) -> LockedJob:
    inputs = {}
    for one in inputs_of(job):
        on_stage("lock", f"{one.key}{_of_step(job)}: {one.path.splitlines()[0][:80]}")
        try:
            inputs[one.key] = describe(one, _sha256_of(job, one))
        except DpoRecipeError as error:
            where = job.composed.where(one.at)
            raise type(error)(*(replace(each, where=each.where or where) for each in error.findings)) from error
    return LockedJob(kind=job.kind.kind, values=values_of(job), inputs=inputs, rows=lock_rows(job, on_stage))


def _sha256_of(job: Job, one: Input) -> str | None:
    return job.settings.model.sha256 if one.at == ("model", "path") else None


def _without_folder(value: str) -> str:
    """A local path without its folder; the name of a function stays."""
    _, separator, function = value.rpartition(".py:")
    return f"{LOCAL}:{function}" if separator else LOCAL


def _of_step(job: Job) -> str:
    return f" of step {job.name}" if job.name else ""
