"""The directory of a chain, in which every version of the chain leaves the steps that it has done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo_recipes.errors import DpoRecipeError, RunError
from dpo_recipes.jobs.chain_file import ValidatedChain
from dpo_recipes.jobs.directory import JobDirectory, write_given
from dpo_recipes.locks import held, is_held
from dpo_recipes.recipe.dump import dump_plain
from dpo_recipes.recipe.load import load_file
from dpo_recipes.run_dir import STEPS_FOLDER, RunDirectory, create_directory, new_directory, written_to

_NO_PART_OF_THE_RESULT = ("summary", "parallel", "output_dir")


@dataclass(frozen=True)
class ChainDirectory(JobDirectory):
    """The directory of a chain."""

    @property
    def resolved_recipe(self) -> Path:
        """The chain with all values of its steps, which runs as a chain too."""
        return self.path / "chain.yaml"

    @property
    def runs(self) -> Path:
        """Those of the steps: `NAME-KEY`, where the key depends on all inputs of the step."""
        return self.path / STEPS_FOLDER


def plain_chain(validated: ValidatedChain) -> dict[str, Any]:
    """All values of a chain and its steps as plain data, which load as the same chain."""
    head = validated.chain.model_dump(by_alias=True, exclude={"steps", "extends", "rounds", "start"})
    steps = {step.name: {"kind": step.kind.kind, **step.kind.plain(step.checked.settings)} for step in validated.steps}
    return {**head, "steps": steps}


def open_or_create(validated: ValidatedChain, output_dir: Path, *, resume: bool | None) -> tuple[ChainDirectory, bool]:
    """The newest directory of a chain of this name, or a new one, and whether it existed. With `resume` True there must
    be one, with False a new one is made.

    The result of another version of the chain is removed from it. Commands that start together get the same directory.
    Raises `RunError` T601, T602, T614, and T615 if another command works on another version.
    """
    name = validated.chain.name
    create_directory(output_dir / name, output_dir)
    with held(output_dir / name / "chains.lock"):
        job = None if resume is False else next(find_chains(output_dir / name), None)
        if job is not None:
            _renew(job, validated)
            return job, True
        if resume:
            raise RunError.of(
                "T614",
                f"there is no run of the chain {name} in {output_dir}",
                why="no folder there has a chain.yaml",
                fix="leave `--resume` out to start",
            )
        job = ChainDirectory(new_directory(output_dir, name))
        create_directory(job.path, output_dir)
        write_given(job, validated.composed.text, dump_plain(plain_chain(validated)))
        return job, False


def find_chains(folder: Path) -> Iterator[ChainDirectory]:
    """The directories of chains in the folder of a name, the newest first."""
    for path in sorted(folder.glob("*-*"), reverse=True):
        if ChainDirectory(path).resolved_recipe.is_file():
            yield ChainDirectory(path)


def _renew(job: ChainDirectory, validated: ValidatedChain) -> None:
    """Let a directory be that of this version of its chain."""
    plain = plain_chain(validated)
    if _essence(plain) == _essence(_read(job)):
        return
    if is_at_work(job):
        raise RunError.of(
            "T615",
            f"another command works on another version of the chain in {job.path}",
            why="the steps of that version are being executed there",
            fix="wait for it, or stop it first; `--no-resume` starts another job beside it",
        )
    with written_to(RunDirectory(job.path)):
        for stale in (job.result, job.report):
            stale.unlink(missing_ok=True)
    write_given(job, validated.composed.text, dump_plain(plain))


def unfinished_chain(job: ChainDirectory) -> RunError:
    """The error T641 for a chain without a result."""
    why, fix = "it has no result.json", "run the chain again: what has finished is kept"
    if is_at_work(job):
        why, fix = "it is still being executed", "wait until it has finished"
    return RunError.of("T641", f"the chain in {job.path} is unfinished", why=why, fix=fix)


def is_at_work(job: ChainDirectory) -> bool:
    """Whether a command executes a step there."""
    return any(is_held(lock) for lock in job.runs.glob("*.lock"))


def _read(job: ChainDirectory) -> dict[str, Any]:
    try:
        return load_file(job.resolved_recipe).data
    except DpoRecipeError:  # damaged: it is written again
        return {}


def _essence(plain: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in plain.items() if key not in _NO_PART_OF_THE_RESULT}
