"""Runs of a sweep that are ended because others were better at the same evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest
from sweeps import FakeRuns

from dpo_recipes.cli.sweep_text import describe_sweep
from dpo_recipes.errors import RecipeError, RunError
from dpo_recipes.recipe.schema import Recipe

SWEEP = """\
training: {eval_steps: 10}
sweep:
  pruning: {startup_trials: 2}
  grid: {training.weight_decay: [0.1, 0.3, 0.5, 0.0, 0.2]}
"""


@pytest.fixture
def fake(tmp_path: Path) -> FakeRuns:
    """The weight decay is the held-out loss, and with 0.0 only the last evaluation shows it."""

    def evaluations(recipe: Recipe) -> list[float]:
        decay = recipe.training.weight_decay
        return [decay] * 3 if decay else [0.15, 0.15, 0.0]

    return FakeRuns(tmp_path, lambda recipe: {"eval_loss": recipe.training.weight_decay}, evaluations)


def test_a_run_that_is_worse_than_the_median_of_the_others_is_ended(fake: FakeRuns) -> None:
    """The first two always finish, and the median of theirs is 0.2. The fifth meets 0.1, 0.15 and 0.3."""
    finished = fake.run(SWEEP)
    assert [trial.state for trial in finished.result.trials] == ["finished", "finished", "pruned", "finished", "pruned"]
    run = finished.result.trials[2].runs[0]
    assert run.reason == "it was worse than others: loss 0.500 at evaluation 1 (step 1)"
    assert (run.value, run.attempts) == (None, 1)
    assert finished.result.best is not None
    assert finished.result.best.trial == 4
    assert describe_sweep(finished)[4] == "3      0.5           –      pruned"


def test_not_before_its_evaluations_for_warming_up(fake: FakeRuns) -> None:
    run = (
        fake.run(SWEEP.replace("startup_trials: 2", "startup_trials: 2, warmup_evaluations: 2"))
        .result.trials[2]
        .runs[0]
    )
    assert run.reason == "it was worse than others: loss 0.500 at evaluation 3 (step 3)"


def test_the_percentile_says_how_many_are_good_enough(fake: FakeRuns) -> None:
    states = [trial.state for trial in fake.run(SWEEP.replace("2}", "2, percentile: 99}")).result.trials]
    assert states == ["finished", "finished", "pruned", "finished", "finished"]


def test_a_loss_that_is_no_number_is_worse_than_all(fake: FakeRuns) -> None:
    plain = fake.evaluations
    fake.evaluations = lambda recipe: [float("nan")] if recipe.training.weight_decay == 0.5 else plain(recipe)
    assert fake.run(SWEEP).result.trials[2].state == "pruned"


def test_a_pruned_run_is_not_resumed(fake: FakeRuns) -> None:
    def metrics(recipe: Recipe) -> dict[str, float]:
        if recipe.name == "job-004":
            raise RunError.of("T602", "no space left")
        return {"eval_loss": recipe.training.weight_decay}

    plain, fake.metrics = fake.metrics, metrics
    with pytest.raises(RunError, match="T602"):
        fake.run(SWEEP)
    fake.metrics = plain
    fake.run(SWEEP)
    assert fake.executed == ["001", "002", "003", "004", "004", "005"]


def test_the_other_seeds_of_a_trial_are_not_its_competitors(fake: FakeRuns) -> None:
    result = fake.run(
        SWEEP.replace("[0.1, 0.3, 0.5, 0.0, 0.2]", "[0.1]").replace("pruning", "seeds: 4\n  pruning")
    ).result
    assert [run.state for run in result.trials[0].runs] == ["finished"] * 4


def test_there_must_be_evaluations(fake: FakeRuns) -> None:
    with pytest.raises(RecipeError, match="R370") as caught:
        fake.run(SWEEP.replace("training: {eval_steps: 10}\n", ""))
    where = caught.value.findings[0].where
    assert where is not None
    assert (where.line, where.text) == (8, "  pruning: {startup_trials: 2}")
