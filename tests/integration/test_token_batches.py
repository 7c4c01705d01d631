"""Micro-batches filled by tokens take the steps of micro-batches of equally many pairs."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import recipe_text

from dpo_recipes.engine.callbacks.progress import MetricsCallback
from dpo_recipes.engine.dpo_trainer import PretokenizedDPOTrainer
from dpo_recipes.engine.prefix_sharing import PrefixSharing
from dpo_recipes.errors import EXIT_RESUMABLE

Work = Callable[..., Any]
# Not `entropy` and its like: these are means over the tokens of a micro-batch, and then over micro-batches. Nor how
# many rewards are above the other: before the first step both are rounding around zero.
SAME = ("loss", "grad_norm", "rewards/chosen", "rewards/margins", "logps/chosen", "logps/rejected", "num_tokens")


@pytest.fixture
def text(tmp_path: Path, tiny_model: Path) -> str:
    """30 pairs to train on of very different lengths, 8 in a step: the last one of an epoch has 6.

    The learning rate is low, because a high one amplifies rounding from step to step.
    """
    rows = [
        {
            "prompt": f"What is {n}" + " and more" * (n * 7 % 31),
            "chosen": f"{n}." * (1 + n % 5),
            "rejected": "Many. " * 3,
        }
        for n in range(34)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = recipe_text(tiny_model, path).replace("max_steps: 3", "num_epochs: 2")
    recipe = recipe.replace("gradient_accumulation_steps: 2", "gradient_accumulation_steps: 4")
    recipe = recipe.replace("learning_rate: 1e-2", "learning_rate: 1e-3")
    return recipe.replace("fraction: 0.25", "count: 4").replace("max_length: 128", "max_length: 256")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Positions of each pass that is learned from, as they are computed."""
    seen: list[int] = []
    whole = PrefixSharing.forward

    def forward(self: PrefixSharing, *args: Any, **kwargs: Any) -> Any:
        before = self.trained.computed
        output = whole(self, *args, **kwargs)
        if self.trained.computed > before:
            seen.append(self.trained.computed - before)
        return output

    monkeypatch.setattr(PrefixSharing, "forward", forward)
    return seen


def steps(outcome: Any) -> list[dict[str, Any]]:
    return [row for row in map(json.loads, outcome.run.metrics.read_text().splitlines()) if "loss" in row]


def assert_same(outcome: Any, expected: Any) -> None:
    assert outcome.exit_code == expected.exit_code == 0
    assert len(steps(outcome)) == len(steps(expected)) == 8
    for mine, theirs in zip(steps(outcome), steps(expected), strict=True):
        for name in SAME:
            assert mine[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-6), (name, mine["step"])


@pytest.mark.parametrize("more", [(), ("model.adapter=null",), ("training.prefix_sharing=off",)], ids=str)
def test_the_steps_are_the_same_in_fewer_passes(work: Work, text: str, passes: list[int], more: tuple[str]) -> None:
    expected = work(text, *more)
    many = len(passes)
    outcome = work(text, *more, "training.max_tokens_per_pass=500")
    assert_same(outcome, expected)
    if "training.prefix_sharing=off" not in more:
        # One more each is the trial of the largest micro-batch before the first step.
        assert max(passes[many:]) <= 500
        assert len(passes) - many < many


def test_a_step_is_reported_as_what_it_is(work: Work, text: str) -> None:
    outcome = work(text, "training.max_tokens_per_pass=500")
    plan = json.loads((outcome.run.path / "launch.json").read_text())
    assert plan["max_tokens"] == 500
    last = steps(outcome)[-1]
    assert last["epoch"] == 2.0
    assert outcome.result["steps"] == 8
    assert outcome.result["pairs_per_second"] > 0


def test_losses_of_whole_micro_batches_keep_theirs(work: Work, text: str, passes: list[int]) -> None:
    loss = "objective={kind: dpo, loss_type: [sigmoid, sft]}"
    expected = work(text, loss)
    many = len(passes)
    outcome = work(text, loss, "training.max_tokens_per_pass=500")
    assert_same(outcome, expected)
    assert len(passes) - many == many


def test_stopped_and_gone_on_is_the_same_to_the_bit(work: Work, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = "training.max_tokens_per_pass=500"
    calm = work(text, budget)
    original = MetricsCallback.on_step_end

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        original(self, args, state, control, **kwargs)
        if state.global_step == 5:
            monkeypatch.setattr(MetricsCallback, "on_step_end", original)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(MetricsCallback, "on_step_end", on_step_end)
    assert work(text, budget).exit_code == EXIT_RESUMABLE
    again = work(text, budget, resume=True)
    assert again.result["resumed_from_step"] == 6
    for name in SAME:
        assert [row[name] for row in steps(again)] == [row[name] for row in steps(calm)], name
    saved = [(outcome.run.path / "model" / "adapter_model.safetensors").read_bytes() for outcome in (again, calm)]
    assert saved[0] == saved[1]


def test_out_of_memory_under_fit_halves_the_budget(work: Work, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = "training.max_tokens_per_pass=900"
    expected = work(text, budget)
    whole = PretokenizedDPOTrainer.compute_loss
    seen = 0

    def compute_loss(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal seen
        seen += model.training
        if model.training and seen > 4 and inputs["attention_mask"].sum() > 900:  # both rows of each pair
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return whole(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(PretokenizedDPOTrainer, "compute_loss", compute_loss)
    outcome = work(text, budget, "hardware.fit=true")
    notes = [event["text"] for event in outcome.events if event["event"] == "note"]
    assert any("resuming with max_tokens_per_pass 450" in note for note in notes)
    assert_same(outcome, expected)
