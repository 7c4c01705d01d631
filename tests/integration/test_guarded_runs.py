"""Guards in real runs: those that go wrong raise alerts and may end early, a healthy one does not."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import recipe_text, write_pairs

from dpo_recipes.engine.callbacks.progress import MetricsCallback
from dpo_recipes.guards.base import Sighting
from dpo_recipes.guards.spikes import Spikes

Work = Callable[..., "Outcome"]  # noqa: F821


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs.jsonl", 40)


@pytest.fixture
def spike_at_four(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard `spikes` fires after step 4."""

    def look(self: Any, job: Any, history: Any) -> Sighting | None:
        return Sighting("a jump", "jump less") if history.training[-1]["step"] >= 4 else None

    monkeypatch.setattr(Spikes, "look", look)


def text(model: Path, pairs: Path, extra: str = "") -> str:
    return recipe_text(model, pairs, extra).replace("max_steps: 3", "num_epochs: 2, eval_steps: 4")


def weights(outcome: Any) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (outcome.run.path / "model").glob("*.safetensors")}


def warnings(outcome: Any) -> list[str]:
    return [event["finding"]["code"] for event in outcome.events if event["event"] == "finding"]


def alerts(outcome: Any) -> list[tuple[str, int]]:
    return [(alert["guard"], alert["step"]) for alert in outcome.result["guards"]["alerts"]]


def test_a_healthy_run_raises_no_guard_and_guards_change_no_bit(work: Work, tiny_model: Path, pairs: Path) -> None:
    watched = work(text(tiny_model, pairs).replace("1e-2", "1e-3"))
    off = ", ".join(f"{name}: {{action: off}}" for name in watched.result["guards"]["watched"])
    unwatched = work(text(tiny_model, pairs, f"guards: {{{off}}}").replace("1e-2", "1e-3"))
    assert alerts(watched) == []
    assert "No guard fired." in watched.run.report.read_text()
    assert unwatched.result["guards"]["watched"] == []
    assert weights(watched) == weights(unwatched)


@pytest.mark.usefixtures("spike_at_four")
def test_a_warning_is_raised_once_and_is_in_all_places(work: Work, tiny_model: Path, pairs: Path) -> None:
    outcome = work(text(tiny_model, pairs))
    assert outcome.exit_code == 0
    assert warnings(outcome).count("T652") == 1
    assert ("spikes", 4) in alerts(outcome)
    assert outcome.result["ended_early"] is None
    assert outcome.result["steps"] == 16
    report = outcome.run.report.read_text()
    assert "a jump." in report
    assert "jump less." in report
    assert "a jump" not in (outcome.run.path / "model" / "README.md").read_text()  # it says nothing about the model


@pytest.mark.usefixtures("spike_at_four")
def test_stop_ends_training_there_evaluates_and_saves(work: Work, tiny_model: Path, pairs: Path) -> None:
    outcome = work(text(tiny_model, pairs, "guards: {spikes: {action: stop}}"))
    assert outcome.exit_code == 0
    result = outcome.result
    assert (result["steps"], result["status"]) == (4, "finished")
    assert result["ended_early"] == "the guard `spikes` ended it at step 4: a jump"
    rows = [json.loads(line) for line in outcome.run.metrics.read_text().splitlines()]
    assert [row["step"] for row in rows if "eval_loss" in row] == [0, 4]
    assert result["metrics"]["eval_loss"] == rows[-1]["eval_loss"]
    assert weights(outcome)
    notes = [event["text"] for event in outcome.events if event["event"] == "note"]
    assert "training ended after step 4 of 16: the guard `spikes` ended it at step 4: a jump" in notes
    assert "where training ended early" in outcome.run.report.read_text()
    assert "ended it at step 4" in (outcome.run.path / "model" / "README.md").read_text()


@pytest.mark.usefixtures("spike_at_four")
@pytest.mark.parametrize("stopped_at", [2, 3])
def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(
    work: Work, tiny_model: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch, stopped_at: int
) -> None:
    """Stopped after step 3, before the guard fires, and after step 4, at the step after which it ends the run."""
    recipe = text(tiny_model, pairs, "guards: {spikes: {action: stop}}")
    calm = work(recipe)
    original = MetricsCallback.on_step_end

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        original(self, args, state, control, **kwargs)
        if state.global_step == stopped_at:
            monkeypatch.setattr(MetricsCallback, "on_step_end", original)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(MetricsCallback, "on_step_end", on_step_end)
    stopped = work(recipe)
    assert stopped.codes == ["I101"]
    again = work(recipe, resume=True)
    assert again.result["resumed_from_step"] == stopped_at + 1
    for part in ("guards", "ended_early", "steps", "metrics", "base_metrics"):
        assert again.result[part] == calm.result[part], part
    assert weights(again) == weights(calm)
    timed = ("runtime", "per_second", "memory", "time")
    first, second = (
        [
            {key: value for key, value in json.loads(line).items() if not any(word in key for word in timed)}
            for line in outcome.run.metrics.read_text().splitlines()
        ]
        for outcome in (calm, again)
    )
    assert first == second
