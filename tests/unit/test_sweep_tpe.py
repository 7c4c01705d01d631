"""Sweeps whose values are chosen by Optuna from the results so far."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from sweeps import RECIPE, FakeRuns

from dpo_recipes.errors import Interrupted, RecipeError, RunError
from dpo_recipes.jobs.study import suggest
from dpo_recipes.objectives.metric import LOSS
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.schema.sweep import Range
from dpo_recipes.recipe.validate import validate

TPE = """\
sweep:
  max_trials: 30
  tpe:
    training.learning_rate: {low: 1e-6, high: 1e-3, log: true}
    training.weight_decay: {low: 0.0, high: 0.5, step: 0.1}
    training.micro_batch_size: {low: 1, high: 4}
    model.adapter.target_modules: [all-linear, [q_proj, v_proj]]
"""


def loss(recipe: Recipe) -> dict[str, float]:
    """The lowest loss is that of a learning rate of 1e-4; the other settings change next to nothing."""
    distance = math.log10(recipe.training.learning_rate) + 4
    return {"eval_loss": distance**2 + 1e-3 * recipe.training.weight_decay}


@pytest.fixture
def fake(tmp_path: Path) -> FakeRuns:
    return FakeRuns(tmp_path, loss)


def test_later_trials_are_near_the_best_of_the_earlier_ones(fake: FakeRuns) -> None:
    finished = fake.run(TPE)
    losses = [trial.value or 0.0 for trial in finished.result.trials]
    assert len(losses) == 30
    assert sum(losses[10:]) / 20 < sum(losses[:10]) / 10 / 2
    assert finished.result.best is not None
    assert min(losses) < 0.01
    values = [trial.values for trial in finished.result.trials]
    assert {value["training.weight_decay"] for value in values} <= {0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.30000000000000004}
    assert {value["training.micro_batch_size"] for value in values} <= {1, 2, 3, 4}
    assert ["q_proj", "v_proj"] in [value["model.adapter.target_modules"] for value in values]
    rate = values[-1]["training.learning_rate"]
    assert str(rate) == str(float(f"{rate:.4g}"))


def test_the_same_command_chooses_the_same_values_and_an_interrupted_trial_keeps_its_own(fake: FakeRuns) -> None:
    def metrics(recipe: Recipe) -> dict[str, float]:
        if recipe.name == "job-013":
            raise Interrupted.of("I101", "the run was interrupted")
        return loss(recipe)

    whole = fake.run(TPE).result
    fake.metrics = metrics
    with pytest.raises(Interrupted):
        fake.run(TPE)
    fake.metrics = loss
    resumed = fake.run(TPE).result
    assert [trial.values for trial in resumed.trials] == [trial.values for trial in whole.trials]
    assert fake.executed[42:44] == ["013", "013"]
    other = fake.run(TPE, "training.seed=7", "sweep.max_trials=2").result
    assert other.trials[0].values != whole.trials[0].values


def test_the_runs_of_a_trial_share_its_values(fake: FakeRuns) -> None:
    result = fake.run(TPE, "sweep.max_trials=2", "sweep.seeds=2").result
    assert fake.executed == ["001-1", "002-1", "001-2", "002-2"]
    assert [len(trial.runs) for trial in result.trials] == [2, 2]
    recipes = [
        validate(fake.folders[0] / "trials" / name / "resolved.yaml").recipe.training for name in ("001-1", "001-2")
    ]
    assert recipes[0].learning_rate == recipes[1].learning_rate
    assert [recipe.seed for recipe in recipes] == [42, 43]


def test_trials_that_failed_are_no_example(fake: FakeRuns) -> None:
    def metrics(recipe: Recipe) -> dict[str, float]:
        if recipe.training.learning_rate > 1e-4:
            raise RunError.of("T604", "the loss is not a number")
        return loss(recipe)

    fake.metrics = metrics
    result = fake.run(TPE).result
    assert {trial.state for trial in result.trials} == {"finished", "failed"}
    assert result.best is not None


def test_trials_that_were_never_started_are_not_in_the_result(fake: FakeRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpo_recipes.jobs.trial_run.TrialRun.seconds", lambda run: 2000.0 * run.num_attempts())
    result = fake.run(TPE, "sweep.max_hours=1").result
    assert [trial.number for trial in result.trials] == [1, 2]


def test_values_being_tried_are_avoided() -> None:
    """Without the running trials, another process would be told nearly the same."""
    space: dict[str, list[object] | Range] = {"rate": Range(low=0.0, high=1.0)}
    known = [({"rate": value / 20}, abs(value / 20 - 0.5)) for value in range(20)]
    alone = suggest(space, known, LOSS, seed=0)
    assert alone == suggest(space, known, LOSS, seed=0)
    crowded = suggest(space, [*known, *[({"rate": 0.5 + i / 1000}, None) for i in range(-20, 20)]], LOSS, seed=0)
    assert abs(crowded["rate"] - 0.5) > abs(alone["rate"] - 0.5)


def test_without_optuna_nothing_starts(fake: FakeRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpo_recipes.recipe.sweep_checks.is_installed", lambda package: False)
    with pytest.raises(RecipeError, match="R316") as caught:
        fake.run(TPE)
    assert "dpo-recipe[sweep]" in str(caught.value)
    assert not (fake.folder / "runs").exists()


def test_the_ends_of_ranges_and_each_value_are_checked_first(tmp_path: Path) -> None:
    text = TPE.replace("high: 1e-3", "high: 2.0").replace("[q_proj, v_proj]", "[]")
    path = tmp_path / "job.yaml"
    path.write_text(RECIPE + text)
    with pytest.raises(RecipeError) as caught:
        validate(path)
    assert [(finding.code, finding.where and finding.where.line) for finding in caught.value.findings] == [
        ("R206", 10),
        ("R338", 13),
    ]


def test_what_was_chosen_is_in_a_file(fake: FakeRuns) -> None:
    trial = fake.run(TPE, "sweep.max_trials=1").result.trials[0]
    chosen = json.loads((fake.folders[0] / "trials" / "001.values.json").read_text())
    modules = ["all-linear", ["q_proj", "v_proj"]][chosen["model.adapter.target_modules"]]
    assert trial.values == {**chosen, "model.adapter.target_modules": modules}
