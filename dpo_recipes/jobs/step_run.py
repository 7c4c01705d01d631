"""One run of a step of a chain: its directory, whose name depends on all of its inputs, and its state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from dpo_recipes.cache import content_key, file_digest, remembered
from dpo_recipes.hardware.machine import package_versions
from dpo_recipes.jobs.chain_directory import ChainDirectory
from dpo_recipes.jobs.job_run import JobRun, RunState
from dpo_recipes.jobs.steps.base import CheckedStep, Step
from dpo_recipes.recipe.load import DataPath
from dpo_recipes.recipe.paths import parent_of
from dpo_recipes.recipe.references import placed, with_paths
from dpo_recipes.run_dir import MODEL_FOLDER, RunDirectory

_LIBRARIES = ("torch", "transformers", "trl", "peft")
"""Other versions of these may give other weights."""
_NO_PART_OF_A_MODEL = ("README.md",)
"""The model card has times in it."""


@dataclass(eq=False)
class StepRun(JobRun):
    """The run of a step with the inputs that it has now."""

    job: ChainDirectory
    step: Step
    needs: Mapping[DataPath, StepRun]
    """The runs of the steps that it refers to, by the places of the references."""
    since: float
    """When the command started, in seconds since 1970. Earlier failures are tried again."""
    before: tuple[StepRun, ...] = ()
    """The runs of all steps that it needs, also through others, in the order of need."""
    _has_finished: bool = field(default=False, init=False)
    """Whether it was seen to have finished. It stays so for a command: the keys of later steps already depend on it."""

    @property
    def name(self) -> str:
        """The name of the step with the start of its key. Only if it is ready."""
        return f"{self.step.name}-{self.key[:8]}"

    @property
    def folder(self) -> Path:
        """That of the steps."""
        return self.job.runs

    @property
    def is_ready(self) -> bool:
        """Whether the steps that it needs have finished."""
        return all(run._is_done() for run in self.before)

    @property
    def is_blocked(self) -> bool:
        """Whether a step that it needs has failed, or is blocked itself."""
        finished: set[int] = set()
        for run in self.before:
            if not all(id(need) in finished for need in run.needs.values()):
                continue  # it was not started, because of one before it
            if run._is_done():
                finished.add(id(run))
            elif run._state_of_files() in ("failed", "out_of_memory"):
                return True
        return False

    @property
    def state(self) -> RunState:
        """The state that its files describe. A step whose product was removed has to be done again."""
        return self._state_of_files() if self.is_ready else "unfinished"

    def _is_done(self) -> bool:
        """Whether it has finished. Only if it is ready."""
        self._has_finished = self._has_finished or self._state_of_files() == "finished"
        return self._has_finished

    def _state_of_files(self) -> RunState:
        """Its state. Only if it is ready, because its files are named by what other steps made."""
        found = super().state
        return "unfinished" if found == "finished" and not self.product_path.exists() else found

    @property
    def product_path(self) -> Path:
        """What it makes."""
        return self.step.kind.product_path(self.run, self.step.checked.settings)

    def failure(self) -> dict[str, Any] | None:
        """Why it ended without a result since the command started."""
        found = super().failure()
        return found if found is not None and found["ended_at"] >= self.since else None

    @cached_property
    def key(self) -> str:
        """A key over everything that determines what the step makes: its settings, in which the content of files and of
        what other steps made stands in the place of their paths, and the versions of libraries. Only if it is ready."""
        kind, settings = self.step.kind, self.step.checked.settings
        identity = kind.identity(settings)
        contents = {at: need.product_digest for at, need in self.needs.items()}
        contents |= {at: _input_digest(parent_of(identity, at)[at[-1]]) for at in kind.inputs(settings)}
        versions = {name: version for name, version in package_versions().items() if name in _LIBRARIES}
        return content_key(kind.kind, placed(identity, contents), versions)

    @cached_property
    def product_digest(self) -> str:
        """A digest of the content of what it has made. Only if it has finished."""
        return path_digest(self.product_path)

    def resolve(self) -> CheckedStep:
        """The step with paths in the places of its references. Raises `RecipeError` if it is not valid with them."""
        paths = {at: str(self.step.kind.path_at(at, need.run, need.product_path)) for at, need in self.needs.items()}
        return self.step.kind.check(with_paths(self.step.checked.composed, paths))


def _input_digest(text: str) -> str:
    """The digest of what a path in the settings names: a file, a folder, a run directory, or a function in a file."""
    file, separator, function = text.rpartition(".py:")
    if separator:
        return f"{function} {path_digest(Path(file + '.py'))}"
    path = Path(text)
    run = RunDirectory(path)
    return f"{path.suffix} {path_digest(run.path / MODEL_FOLDER if run.resolved_recipe.is_file() else path)}"


def path_digest(path: Path) -> str:
    """A digest of the content of a file, or of all files below a folder with their names. Large files are read once."""
    if not path.is_dir():
        return remembered("blake2b", path, file_digest) if path.exists() else "missing"
    files = sorted(each for each in path.rglob("*") if each.is_file() and each.name not in _NO_PART_OF_A_MODEL)
    return content_key([[str(each.relative_to(path)), remembered("blake2b", each, file_digest)] for each in files])


def runs_of(job: ChainDirectory, steps: Sequence[Step], since: float) -> list[StepRun]:
    """The runs of the steps of a chain, in the order of need."""
    runs: dict[str, StepRun] = {}
    for step in steps:
        needs = {need.at: runs[need.step.name] for need in step.needs}
        wanted = {name for run in needs.values() for name in (*(each.step.name for each in run.before), run.step.name)}
        before = tuple(run for name, run in runs.items() if name in wanted)
        runs[step.name] = StepRun(job, step, needs, since, before)
    return list(runs.values())
