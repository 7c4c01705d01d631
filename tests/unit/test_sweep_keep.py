"""What `sweep.keep: best` removes, and when: never the best model, also after a kill and beside other commands."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sweeps import FakeRuns
from synthetic_runs import make_recipe, make_run
from typer.testing import CliRunner

from dpo_recipes.cli import app
from dpo_recipes.errors import Interrupted, RunError
from dpo_recipes.finished_run import open_run
from dpo_recipes.fit.planner.disk import check_sweep_space, num_kept_runs
from dpo_recipes.jobs.keep import find_remains, remove_losers
from dpo_recipes.jobs.trial_run import runs_of
from dpo_recipes.objectives.metric import LOSS
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.validate import Validated
from dpo_recipes.run_dir import RunDirectory

LOSSES = {0.1: 0.5, 0.2: 0.3, 0.3: 0.4, 0.4: 0.3}
"""By the weight decay; the second and the last one are the best and equal."""
SWEEP = "sweep: {metric: loss, keep: best, grid: {training.weight_decay: [0.1, 0.2, 0.3, 0.4]}}\n"


class Runs(FakeRuns):
    """Fake runs that leave a model and a checkpoint."""

    def execute(self, validated: Validated, on_event: Any, options: Any = None, *, directory: RunDirectory) -> None:
        (directory.checkpoints / "checkpoint-1").mkdir(parents=True, exist_ok=True)
        super().execute(validated, on_event, options, directory=directory)
        (directory.path / "model" / "adapter.safetensors").write_text(directory.path.name)


def loss(recipe: Recipe) -> dict[str, float]:
    return {"eval_loss": LOSSES[recipe.training.weight_decay]}


@pytest.fixture
def fake(tmp_path: Path) -> Runs:
    return Runs(tmp_path, loss)


def with_models(sweep: Path) -> list[str]:
    """The runs that have a model; these have their checkpoints, and the others have none."""
    kept = sorted(path.parent.name for path in sweep.glob("trials/*/model"))
    assert sorted(path.parent.name for path in sweep.glob("trials/*/checkpoints")) == kept
    assert not list(sweep.glob("trials/*/model.removed"))
    return kept


def test_only_the_best_model_is_kept_and_every_result(fake: Runs) -> None:
    seen: list[list[str]] = []

    def metrics(recipe: Recipe) -> dict[str, float]:
        seen.append(sorted(path.parent.name for path in fake.folders[0].glob("trials/*/model")))
        return loss(recipe)

    fake.metrics = metrics
    finished = fake.run(SWEEP)
    assert seen == [["001"], ["001", "002"], ["002", "003"], ["002", "004"]]  # with the one that is being executed
    assert with_models(finished.directory.path) == ["002"]
    assert (finished.directory.best / "model" / "adapter.safetensors").read_text() == "002"
    assert [run.value for trial in finished.result.trials for run in trial.runs] == list(LOSSES.values())
    for number in range(1, 5):
        run = RunDirectory(finished.directory.runs / f"{number:03}")
        assert run.result.exists()
        assert run.resolved_recipe.exists()


def test_all_models_are_kept_unless_the_recipe_says_so(fake: Runs) -> None:
    assert with_models(fake.run(SWEEP.replace("keep: best, ", "")).directory.path) == ["001", "002", "003", "004"]


def test_with_seeds_the_best_run_of_each_trial_stays_until_all_means_are_known(fake: Runs) -> None:
    """By the first seed, trial 1 is better; by the means 0.5 and 0.4, trial 2."""
    losses = {(0.1, 42): 0.1, (0.1, 43): 0.9, (0.2, 42): 0.5, (0.2, 43): 0.3}
    seen: list[list[str]] = []

    def metrics(recipe: Recipe) -> dict[str, float]:
        seen.append(sorted(path.parent.name for path in fake.folders[0].glob("trials/*/model")))
        return {"eval_loss": losses[recipe.training.weight_decay, recipe.training.seed]}

    fake.metrics = metrics
    finished = fake.run(SWEEP.replace("[0.1, 0.2, 0.3, 0.4]", "[0.1, 0.2]").replace("keep:", "seeds: 2, keep:"))
    assert seen[-1] == ["001-1", "002-1", "002-2"]
    assert with_models(finished.directory.path) == ["002-2"]


def test_a_failed_run_keeps_its_checkpoints_until_the_sweep_ends(fake: Runs) -> None:
    def metrics(recipe: Recipe) -> dict[str, float]:
        if recipe.training.weight_decay == 0.1:
            raise RunError.of("T604", "the loss is not a number")
        assert (fake.folders[0] / "trials" / "001" / "checkpoints").exists()
        return loss(recipe)

    fake.metrics = metrics
    finished = fake.run(SWEEP)
    assert with_models(finished.directory.path) == ["002"]
    assert (finished.directory.runs / "001.failed.json").exists()


@pytest.mark.parametrize("after", range(1, 9))
def test_a_removal_that_was_killed_is_finished_by_the_next_command(
    fake: Runs, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    calls = 0

    def kill(path: Path, **options: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == after:
            raise Interrupted.of("I101", "killed")
        delete(path, **options)

    delete: Callable[..., None] = shutil.rmtree
    monkeypatch.setattr("dpo_recipes.jobs.keep.shutil.rmtree", kill)
    with pytest.raises(Interrupted):
        fake.run(SWEEP)
    finished = fake.run(SWEEP)
    assert calls > after
    assert len(fake.folders) == 1
    assert sorted(fake.executed) == ["001", "002", "003", "004"]
    assert with_models(finished.directory.path) == ["002"]
    assert (finished.directory.best / "model" / "adapter.safetensors").read_text() == "002"


def test_what_a_kill_after_the_end_has_left_is_removed_by_prune(fake: Runs) -> None:
    """As by a command whose run outlasted the sweep, or an earlier version."""
    sweep = fake.run(SWEEP).directory
    for name, folder in (("001", "model"), ("003", "model.removed"), ("004", "checkpoints")):
        (sweep.runs / name / folder).mkdir()
    everything = fake.run(SWEEP.replace("keep: best, ", ""), "name=other").directory
    unfinished = fake.run(SWEEP, "name=begun").directory
    (unfinished.runs / "001" / "model").mkdir()
    unfinished.result.unlink()
    with runs_of(sweep, fake.validate(SWEEP))[3].claimed():
        assert [path.parent.name for path in find_remains(sweep)] == ["001", "003"]
    call = ["runs", "prune", "--keep", "100", "--yes", "--output-dir", str(fake.folder / "runs")]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        str(sweep.runs / name) for name in ("001/model", "003/model.removed", "004/checkpoints")
    ]
    assert with_models(sweep.path) == ["002"]
    assert with_models(everything.path) == ["001", "002", "003", "004"]
    assert (unfinished.runs / "001" / "model").exists()
    assert "nothing to remove" in CliRunner().invoke(app, call).stderr


def test_nothing_remains_of_a_sweep_that_cannot_be_read(fake: Runs) -> None:
    sweep = fake.run(SWEEP).directory
    (sweep.runs / "001" / "model").mkdir()
    given = sweep.result.read_text()
    for text in ('{"schema": 9}', given.replace('"best": {', '"best": null, "was": {')):
        sweep.result.write_text(text)
        assert find_remains(sweep) == []
    sweep.result.write_text(given)
    sweep.resolved_recipe.write_text("{")
    assert find_remains(sweep) == []


def test_a_run_that_another_command_has_claimed_is_left_to_it(fake: Runs) -> None:
    finished = fake.run(SWEEP.replace("keep: best, ", ""))
    runs = runs_of(finished.directory, fake.validate(SWEEP))
    with runs[0].claimed() as is_ours:
        assert is_ours
        remove_losers(runs, LOSS)
        assert with_models(finished.directory.path) == ["001", "002"]
        remove_losers(runs, LOSS, own=runs[0])
    assert with_models(finished.directory.path) == ["002"]


def test_a_sweep_whose_disk_is_full_resumes_with_the_best_model_only(fake: Runs) -> None:
    def metrics(recipe: Recipe) -> dict[str, float]:
        if recipe.training.weight_decay == 0.4:
            assert with_models(fake.folders[0]) == ["001", "002", "003", "004"]
            raise RunError.of("T602", "there is no space left")
        return loss(recipe)

    fake.metrics = metrics
    with pytest.raises(RunError, match="T602"):
        fake.run(SWEEP.replace("keep: best, ", ""))
    fake.metrics = lambda recipe: {"eval_loss": 0.2} if with_models(fake.folders[0]) == ["002", "004"] else {}
    finished = fake.run(SWEEP, resume=True)
    assert with_models(finished.directory.path) == ["004"]


def test_a_model_that_was_removed_is_an_error_that_says_how_to_get_it_again(tmp_path: Path) -> None:
    run = make_run(tmp_path, make_recipe())
    with pytest.raises(RunError, match="T644") as caught:
        open_run(run.path).load()
    assert f"dpo-recipe run {run.resolved_recipe}" in str(caught.value)


@pytest.mark.parametrize(
    ("sweep", "kept"),
    [
        ({}, 4),
        ({"seeds": 3}, 12),
        ({"keep": "best"}, 2),
        ({"keep": "best", "parallel": 2}, 3),
        ({"keep": "best", "parallel": 8}, 4),
        ({"keep": "best", "seeds": 3, "parallel": 2}, 6),
    ],
)
def test_the_plan_knows_how_many_runs_are_on_the_disk(sweep: dict[str, Any], kept: int) -> None:
    recipe = make_recipe(sweep={"grid": {"training.weight_decay": [0.1, 0.2, 0.3, 0.4]}, **sweep})
    assert num_kept_runs(recipe) == kept


def test_a_sweep_that_does_not_fit_on_the_disk_is_a_warning(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there"
    assert check_sweep_space({"model": 1}, folder) == []
    assert check_sweep_space({"sweep": 1}, folder) == []
    (warning,) = check_sweep_space({"sweep": 10**18}, folder)
    assert (warning.code, warning.severity) == ("T602", "warning")
    assert "sweep.keep: best" in (warning.fix or "")
