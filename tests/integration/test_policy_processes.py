"""RLOO and GRPO in several processes: they write the answers of one process and take its steps."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from processes import Run, Runner, assert_same_steps, assert_same_weights

from dpo_recipes.errors import Interrupted

REWARDS = "rewards: [{{rule: regex, pattern: '[aeiou]', count: 8}}], num_generations: 3, max_new_tokens: 6"
# Of 17 prompts, an epoch has 4 steps of 4, each of which is taken twice.
TWICE = "objective={{kind: {kind}, " + REWARDS + ", num_iterations: 2{more}}}"
NUM_STEPS = 8
OF_ROLLOUTS = ("reward", "reward_std", "completions/mean_length", "completions/clipped_ratio", "clip_ratio/region_mean")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Runner:
    return Runner(tmp_path_factory.mktemp("policy"), tiny_model)


def assert_same_rollouts(one: Run, other: Run, num_steps: int = NUM_STEPS) -> None:
    assert_same_steps(one, other, num_steps=num_steps)
    for mine, theirs in zip(one.steps, other.steps, strict=True):
        for name in mine.keys() & {*OF_ROLLOUTS}:
            assert theirs[name] == pytest.approx(mine[name], rel=1e-5, abs=1e-6), (name, mine["step"])
    assert_same_weights(one, other)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "more", "adapter"),
    [
        ("grpo", ", beta: 0.04", "null"),
        ("grpo", ", loss_type: grpo", "{kind: lora, r: 4}"),
        ("rloo", ", normalize_advantages: true", "{kind: lora, r: 4}"),
    ],
)
def test_two_processes_write_the_answers_and_take_the_steps_of_one(
    run: Runner, kind: str, more: str, adapter: str
) -> None:
    settings = (TWICE.format(kind=kind, more=more), "training.num_epochs=1")
    alone, both = (run(count, *settings, adapter=adapter) for count in (1, 2))
    assert_same_rollouts(alone, both)
    assert [("reward" in row) for row in alone.steps] == [True, False] * (NUM_STEPS // 2)


@pytest.mark.slow
def test_a_last_step_that_is_not_full_is_that_of_one_process(run: Runner) -> None:
    """With one step on the answers, an epoch of 17 prompts ends with a step of one, for which one process has none."""
    settings = (
        TWICE.format(kind="rloo", more=", normalize_advantages: true").replace("iterations: 2", "iterations: 1"),
    )
    alone, both = (run(count, *settings, "training.num_epochs=2") for count in (1, 2))
    assert_same_rollouts(alone, both, num_steps=10)


@pytest.mark.slow
@pytest.mark.parametrize("then", [1, 2])
def test_a_run_of_two_goes_on_with_as_many_or_one(run: Runner, tmp_path: Path, then: int) -> None:
    """It is stopped within or after the two steps on the same answers. Two processes go on to the same bits; one writes
    new answers if it goes on within them."""
    settings = (TWICE.format(kind="grpo", more=""), "training.num_epochs=1", "checkpoints.save_steps=1")
    whole = run(2, *settings)

    seen: dict[str, Any] = {}

    def stop(event: Any) -> None:
        if event["event"] == "run":
            seen["dir"] = Path(event["dir"])
        if event["event"] == "step" and event["step"] >= 3 and "pid" not in seen:
            seen["pid"] = json.loads((seen["dir"] / "ranks" / "1" / "process.json").read_text())["pid"]
            os.kill(seen["pid"], signal.SIGINT)

    with pytest.raises(Interrupted):
        run(2, *settings, f"output_dir={tmp_path}", on_event=stop)
    resumed = run(then, *settings, f"output_dir={tmp_path}", resume=True)
    assert 3 <= resumed.result["resumed_from_step"] < NUM_STEPS
    assert [row["step"] for row in resumed.steps] == list(range(1, NUM_STEPS + 1))
    if then == 2:
        assert json.dumps(resumed.steps[-1]["loss"]) == json.dumps(whole.steps[-1]["loss"])
        assert_same_weights(whole, resumed)
