"""The directory of a job with several runs: the names of its files, and finding the unfinished one of a sweep.

The state of a run is not stored as such. It follows from files that are written once: `result.json` of the run, or the
reason of its failure, or a lock that is held. So no command needs to see what another one does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dpo_recipes.cache import content_key
from dpo_recipes.errors import RunError
from dpo_recipes.locks import held
from dpo_recipes.recipe.dump import dump_recipe
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.validate import Validated
from dpo_recipes.resume import changed_values, identity, read_if_valid
from dpo_recipes.run_dir import RunDirectory, create_directory, new_directory, write_text_atomically, written_to


@dataclass(frozen=True)
class JobDirectory:
    """`runs/<name>/<UTC time>-<short id>/` of a job with several runs. `result.json` present means ended."""

    path: Path

    @property
    def given_recipe(self) -> Path:
        """The file as it was given."""
        return self.path / "recipe.yaml"

    @property
    def resolved_recipe(self) -> Path:
        """All values of the file. Its name tells which kind of job the directory belongs to."""
        raise NotImplementedError

    @property
    def runs(self) -> Path:
        """The run directories, and beside each its lock, its attempts, and the reason if it failed."""
        raise NotImplementedError

    @property
    def result(self) -> Path:
        """The result of the job, written last."""
        return self.path / "result.json"

    @property
    def report(self) -> Path:
        """The report of the job."""
        return self.path / "report.html"

    @property
    def lock(self) -> Path:
        """The lock of the command that writes the result."""
        return self.path / "job.lock"


@dataclass(frozen=True)
class SweepDirectory(JobDirectory):
    """The directory of a sweep."""

    @property
    def resolved_recipe(self) -> Path:
        """Every value of the recipe with its sweep."""
        return self.path / "sweep.yaml"

    @property
    def runs(self) -> Path:
        """Those of the trials."""
        return self.path / "trials"

    @property
    def best(self) -> Path:
        """The recipe of the best trial, and its model."""
        return self.path / "best"


def open_or_create(validated: Validated, output_dir: Path, *, resume: bool | None) -> tuple[SweepDirectory, bool]:
    """The unfinished sweep of a recipe, or a new one, and whether it existed. With `resume` True there must be one,
    with False a new one is made.

    Commands that start together get the same directory. Raises `RunError` T601, T602, T611 and T614.
    """
    recipe = validated.recipe
    create_directory(output_dir / recipe.name, output_dir)
    with held(output_dir / recipe.name / "sweeps.lock"):
        earlier = None if resume is False else _find_unfinished(recipe, output_dir)
        if earlier is not None:
            return earlier, True
        if resume:
            raise _nothing_to_resume(recipe, output_dir)
        sweep = SweepDirectory(new_directory(output_dir, recipe.name))
        create_directory(sweep.path, output_dir)
        write_given(sweep, validated.composed.text, dump_recipe(recipe))
        return sweep, False


def write_given(job: JobDirectory, given: str, resolved: str) -> None:
    """Write the file of a job, and all of its values. Raises `RunError` T601 and T602."""
    with written_to(RunDirectory(job.path)):
        job.runs.mkdir(exist_ok=True)
        write_text_atomically(job.given_recipe, given)
        write_text_atomically(job.resolved_recipe, resolved)


def _find_unfinished(recipe: Recipe, output_dir: Path) -> SweepDirectory | None:
    wanted = content_key(identity(recipe))
    for sweep, earlier in _unfinished(recipe, output_dir):
        if earlier is not None and content_key(identity(earlier)) == wanted:
            return sweep
    return None


def _unfinished(recipe: Recipe, output_dir: Path) -> Iterator[tuple[SweepDirectory, Recipe | None]]:
    """The sweeps of this name that have no result, the newest first, with their recipes if they can be read."""
    for path in sorted((output_dir / recipe.name).glob("*-*"), reverse=True):
        sweep = SweepDirectory(path)
        if sweep.resolved_recipe.exists() and not sweep.result.exists():
            yield sweep, read_if_valid(sweep.resolved_recipe)


def _nothing_to_resume(recipe: Recipe, output_dir: Path) -> RunError:
    """Why `--resume` finds nothing: T611 (the recipe has changed) or T614 (there is no unfinished sweep)."""
    found = next(_unfinished(recipe, output_dir), None)
    if found is None:
        return RunError.of(
            "T614",
            f"there is no unfinished sweep of {recipe.name} in {output_dir}",
            why="each sweep there has a result.json, or there is none",
            fix="leave `--resume` out to start a new sweep",
        )
    sweep, earlier = found
    return RunError.of(
        "T611",
        f"the recipe is not the one with which the sweep in {sweep.path} started",
        why=changed_values(earlier, recipe) if earlier else "its sweep.yaml cannot be read",
        fix="restore these values, or start a new sweep with `--no-resume`",
    )
