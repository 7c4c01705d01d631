"""An objective's metrics: what an evaluation gives, which value is better, and which metric `keep_best` uses."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import fake_objective
import pytest

from dpo_recipes.evaluate.metrics import evaluate_base, evaluate_splits
from dpo_recipes.objectives import keep_best_metric
from dpo_recipes.objectives.dpo import OBJECTIVE as DPO
from dpo_recipes.objectives.metric import LOSS, Metric
from dpo_recipes.recipe.schema.checkpoints import Checkpoints

PENALTY = fake_objective.OBJECTIVE.metric("rewards/rejected")
DRIFT = Metric("drift", "Drift", base_value=0.0)


def make_trainer(measured: dict[str, float], log_history: list[dict[str, Any]] | None = None) -> Any:
    """A trainer whose evaluation of the test rows gives each value plus one."""
    tested = {name.replace("eval_", "test_"): value + 1 for name, value in measured.items()}
    return SimpleNamespace(
        eval_dataset=[1],
        test_dataset=[1],
        state=SimpleNamespace(log_history=log_history or [], global_step=4),
        evaluate=lambda: measured,
        evaluate_test=lambda: tested,
    )


# What an evaluation gives


def test_an_evaluation_has_each_metric_of_each_split_and_null_for_one_that_was_not_logged() -> None:
    trainer = make_trainer({"eval_loss": 0.5, "eval_runtime": 3.0, "eval_rewards/rejected": -0.2})
    assert evaluate_splits(trainer, fake_objective.OBJECTIVE.metrics) == {
        "eval_loss": 0.5,
        "eval_rewards/rejected": -0.2,
        "eval_rewards/accuracies": None,
        "eval_absent": None,
        "test_loss": 1.5,
        "test_rewards/rejected": 0.8,
        "test_rewards/accuracies": None,
        "test_absent": None,
    }


def test_an_evaluation_of_the_same_step_is_not_repeated() -> None:
    rows = [{"step": 2, "eval_loss": 0.9}, {"step": 4, "eval_loss": 0.7}, {"step": 4, "loss": 0.1}]
    trainer = make_trainer({"eval_loss": 0.5}, rows)
    assert evaluate_splits(trainer, [LOSS])["eval_loss"] == 0.7
    trainer.state.global_step = 6
    assert evaluate_splits(trainer, [LOSS])["eval_loss"] == 0.5


def test_a_split_that_does_not_exist_has_no_values() -> None:
    trainer = make_trainer({"eval_loss": 0.5})
    trainer.test_dataset = None
    assert evaluate_splits(trainer, [LOSS]) == {"eval_loss": 0.5}
    trainer.eval_dataset = None
    assert evaluate_splits(trainer, [LOSS]) == {}


def test_the_base_has_its_values_by_definition_and_the_others_as_measured() -> None:
    trainer = make_trainer({"eval_loss": 0.6931, "eval_drift": 1e-6})
    assert evaluate_base(trainer, [LOSS, DRIFT]) == {
        "eval_loss": 0.6931,
        "eval_drift": 0.0,
        "test_loss": 1.6931,
        "test_drift": 0.0,
    }


def test_a_value_that_no_row_has_is_null_for_the_base_too() -> None:
    assert evaluate_base(make_trainer({"eval_loss": 0.5}), [DRIFT]) == {"eval_drift": None, "test_drift": None}


# Which value is better


@pytest.mark.parametrize(
    ("value", "than", "if_higher", "if_lower"),
    [
        (2.0, 1.0, True, False),
        (1.0, 2.0, False, True),
        (1.0, 1.0, False, False),
        (1.0, None, True, True),
        (1.0, math.nan, True, True),
        (None, 1.0, False, False),
        (math.nan, 1.0, False, False),
        (math.inf, None, False, False),
        (None, None, False, False),
    ],
)
def test_a_metric_knows_which_value_is_better(
    value: float | None, than: float | None, if_higher: bool, if_lower: bool
) -> None:
    assert Metric("x", "X", higher_is_better=True).is_better(value, than) is if_higher
    assert Metric("x", "X", higher_is_better=False).is_better(value, than) is if_lower


def test_a_metric_without_a_direction_chooses_nothing() -> None:
    with pytest.raises(AssertionError, match="`x` has no direction"):
        Metric("x", "X").is_better(1.0, 2.0)


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        (Metric("x", "X"), 1.23456, "1.235"),
        (Metric("x", "X", 1, is_share=True), 0.8375, "83.8%"),
        (Metric("x", "X", 2, is_signed=True), 1.5, "+1.50"),
        (Metric("x", "X", 2, is_signed=True), -1.5, "\N{MINUS SIGN}1.50"),
        (Metric("x", "X", 1, is_share=True), None, "\N{EN DASH}"),
        (Metric("x", "X"), math.nan, "NaN"),
    ],
)
def test_a_metric_writes_its_values(metric: Metric, value: float | None, text: str) -> None:
    assert metric.format(value) == text


# keep_best


def make_recipe(keep_best: bool | str, kind: str = "dpo") -> Any:
    return SimpleNamespace(checkpoints=Checkpoints(keep_best=keep_best), objective=SimpleNamespace(kind=kind))


def test_keep_best_chooses_by_the_objectives_metric_or_by_the_named_one(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_objective.register(monkeypatch)
    assert keep_best_metric(make_recipe(False)) is None
    assert keep_best_metric(make_recipe(True)) is LOSS
    assert keep_best_metric(make_recipe("rewards/margins")) == DPO.metric("rewards/margins")
    assert keep_best_metric(make_recipe(True, "fake")) is PENALTY
