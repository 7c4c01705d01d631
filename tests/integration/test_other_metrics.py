"""A run of an objective with other metrics: progress, `keep_best` and results use them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_objective
import pytest
from safetensors.torch import load_file
from tiny import recipe_text, write_pairs

from dpo_recipes.engine.callbacks.checkpoint import CheckpointCallback
from dpo_recipes.engine.callbacks.progress import MetricsCallback
from dpo_recipes.engine.checkpoints.choice import Start, take_best
from dpo_recipes.engine.checkpoints.folder import Checkpoint, newest_first, read
from dpo_recipes.events import EventLog
from dpo_recipes.objectives.base import Metric
from dpo_recipes.recipe.schema.checkpoints import Checkpoints

Work = Callable[..., "Outcome"]  # noqa: F821
PENALTY = fake_objective.OBJECTIVE.metric("rewards/rejected")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs.jsonl")


def test_a_run_shows_the_metrics_of_its_objective_and_keeps_the_best_model_by_them(
    work: Work, tiny_model: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_objective.register(monkeypatch)
    extra = "objective: {kind: fake}\ncheckpoints: {save_steps: 1, save_total_limit: 9, keep_best: true}"
    recipe = recipe_text(tiny_model, pairs, extra).replace("max_steps: 3", "max_steps: 4, eval_steps: 1")
    outcome = work(recipe)
    assert outcome.exit_code == 0
    rows = [json.loads(line) for line in outcome.run.metrics.read_text().splitlines()]
    penalties = {row["step"]: row["eval_rewards/rejected"] for row in rows if row["step"] and "eval_loss" in row}
    best = min(penalties, key=lambda step: penalties[step])
    facts = {checkpoint.step: checkpoint.facts for checkpoint in map(read, newest_first(outcome.run.checkpoints))}
    assert facts[best]["eval_rewards/rejected"] == penalties[best]
    assert facts[best]["is_best"]
    kept = load_file(outcome.run.checkpoints / f"checkpoint-{best}" / "adapter_model.safetensors")
    saved = load_file(outcome.run.path / "model" / "adapter_model.safetensors")
    assert all(weight.equal(kept[name]) for name, weight in saved.items())

    result, keys = outcome.result, [metric.key for metric in fake_objective.OBJECTIVE.metrics]
    assert list(result["metrics"]) == list(result["base_metrics"]) == ["train_loss", *(f"eval_{key}" for key in keys)]
    assert result["metrics"]["eval_rewards/rejected"] == pytest.approx(penalties[best], rel=1e-5)
    assert result["metrics"]["eval_absent"] is None
    assert result["base_metrics"]["eval_absent"] is None
    card = (outcome.run.path / "model" / "README.md").read_text(encoding="utf-8")
    assert "| Penalty (`rewards/rejected`) | 0.00 | " in card
    assert fake_objective.OBJECTIVE.metrics_note in card
    assert "Never logged" not in card
    steps = [event for event in outcome.events if event["event"] == "step"]
    assert {"loss", "rewards/rejected"} <= set(steps[-1]["metrics"])
    assert "rewards/accuracies" not in steps[-1]["metrics"]


def test_keep_best_by_a_named_metric(work: Work, tiny_model: Path, pairs: Path) -> None:
    """The margin is highest at the last step, and the loss of that step is not what was compared."""
    extra = "checkpoints: {save_steps: 1, save_total_limit: 9, keep_best: rewards/margins}"
    outcome = work(recipe_text(tiny_model, pairs, extra).replace("max_steps: 3", "max_steps: 3, eval_steps: 1"))
    assert outcome.exit_code == 0
    rows = [json.loads(line) for line in outcome.run.metrics.read_text().splitlines()]
    margins = [row["eval_rewards/margins"] for row in rows if row["step"] and "eval_loss" in row]
    expected = [value for at, value in enumerate(margins) if value > max(margins[:at], default=float("-inf"))]
    newest = [read(path).facts for path in newest_first(outcome.run.checkpoints)]
    assert [facts["eval_rewards/margins"] for facts in reversed(newest) if facts.get("is_best")] == expected
    assert len(expected) > 1


# keep_best


def evaluate_steps(callback: CheckpointCallback, values: list[float | None]) -> list[dict[str, Any]]:
    """The facts of the checkpoints that a sequence of evaluations asks for, None for those that ask for none."""
    facts = []
    for step, value in enumerate(values, start=1):
        control = SimpleNamespace(should_save=False)
        row = {"eval_loss": -1.0, **({} if value is None else {"eval_rewards/rejected": value})}
        callback.on_evaluate(None, SimpleNamespace(global_step=step), control, row)  # type: ignore[arg-type]
        facts.append(callback.take_facts())
        assert control.should_save is bool(facts[-1])
    return facts


def make_callback(tmp_path: Path, metric: Metric | None, start: Start | None = None) -> CheckpointCallback:
    nothing: Any = SimpleNamespace()
    rows = tmp_path / "metrics.jsonl"
    callback = CheckpointCallback(Checkpoints(), nothing, rows, nothing, start or Start(), nothing, metric)
    callback.trainer = SimpleNamespace(is_in_train=True)
    return callback


def test_a_model_is_saved_if_its_metric_is_better_than_all_before(tmp_path: Path) -> None:
    best = [{"is_best": True, "eval_rewards/rejected": value} for value in (0.3, 0.1, -0.2)]
    facts = evaluate_steps(make_callback(tmp_path, PENALTY), [0.3, 0.4, None, math.nan, 0.1, -0.2, -0.1])
    assert facts == [best[0], {}, {}, {}, best[1], best[2], {}]
    assert evaluate_steps(make_callback(tmp_path, None), [0.3, 0.1]) == [{}, {}]


def test_a_resumed_run_compares_with_the_best_checkpoint_so_far(tmp_path: Path) -> None:
    best = Checkpoint(tmp_path, 2, {"is_best": True, "eval_rewards/rejected": 0.1})
    facts = evaluate_steps(make_callback(tmp_path, PENALTY, Start(best=best)), [0.2, 0.0])
    assert facts == [{}, {"is_best": True, "eval_rewards/rejected": 0.0}]


@pytest.mark.parametrize(
    ("last", "is_taken"), [({"eval_rewards/rejected": 0.3}, True), ({"eval_rewards/rejected": 0.0}, False), ({}, True)]
)
def test_the_best_model_replaces_a_last_one_that_is_worse(
    tmp_path: Path, last: dict[str, float], is_taken: bool
) -> None:
    best = Checkpoint(tmp_path / "checkpoint-2", 2, {"is_best": True, "eval_rewards/rejected": 0.1})
    loaded: list[str] = []
    state = SimpleNamespace(
        log_history=[{"step": 4, "eval_loss": 0.5, **last}], global_step=4, best_model_checkpoint=None
    )
    trainer = SimpleNamespace(
        state=state,
        checkpoints=SimpleNamespace(best=best, distributed=SimpleNamespace(share=lambda value: value)),
        _load_best_model=lambda: loaded.append(state.best_model_checkpoint),
    )
    with EventLog(tmp_path / "events.jsonl") as events:
        take_best(trainer, PENALTY, events)
    assert loaded == ([str(best.path)] if is_taken else [])
    text = (tmp_path / "events.jsonl").read_text()
    assert ("the model of step 2 is kept: its held-out penalty is +0.10" in text) is is_taken


# The progress line


def test_the_progress_has_the_live_metrics_of_training_and_evaluation(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as events:
        callback = MetricsCallback(tmp_path / "metrics.jsonl", events, fake_objective.OBJECTIVE.metrics, 10.0)
        arguments = SimpleNamespace(train_batch_size=1, gradient_accumulation_steps=1, world_size=1)
        state, control = SimpleNamespace(global_step=1, max_steps=2), SimpleNamespace(should_log=True)
        callback.on_step_end(arguments, state, control)  # type: ignore[arg-type]
        row = {"loss": 0.5, "rewards/rejected": -0.1, "rewards/accuracies": 0.5, "eval_rewards/rejected": 0.25}
        callback.on_log(arguments, state, control, {**row, "absent": math.nan})  # type: ignore[arg-type]
    evaluated, step = map(json.loads, (tmp_path / "events.jsonl").read_text().splitlines())
    assert (evaluated["event"], evaluated["step"], step["event"]) == ("evaluated", 1, "step")
    assert evaluated["metrics"] == {"eval_rewards/rejected": 0.25}
    assert step["metrics"] == {"loss": 0.5, "rewards/rejected": -0.1, "eval_rewards/rejected": 0.25, "absent": None}
    written = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert written == {"step": 1, **row, "absent": None}
