"""Guards in real runs: those that go wrong raise alerts and may end early, a healthy one does not."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import recipe_text, write_pairs

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


def write_rows(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    names = ("prompt", "chosen", "rejected")
    path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))
    return path


def write_coin_flips(path: Path, count: int, seed: int) -> Path:
    """Pairs from which nothing can be learned: which of two answers is chosen is a matter of chance."""
    flip = random.Random(seed)
    answers = ["yes it is", "no it is not"]
    return write_rows(path, [(f"Is {flip.randrange(10**6)} lucky?", *flip.sample(answers, 2)) for _ in range(count)])


def provoking(model: Path, data: Path, extra: str, training: str, held_out: Path | None = None) -> str:
    """A recipe that tunes all weights."""
    plain = recipe_text(model, data, extra, "null")
    old = "max_steps: 3, micro_batch_size: 2, gradient_accumulation_steps: 2, learning_rate: 1e-2, logging_steps: 1"
    assert old in plain
    new = f"micro_batch_size: 2, gradient_accumulation_steps: 2, logging_steps: 1, {training}"
    source = "{count: 1}" if held_out is None else f"{{sources: [{{path: '{held_out}'}}]}}"
    return plain.replace(old, new).replace("{fraction: 0.25}", source)


def test_five_pairs_are_memorized_until_they_have_no_gradient(work: Work, tiny_model: Path, tmp_path: Path) -> None:
    few, held_out = write_coin_flips(tmp_path / "few.jsonl", 5, 0), write_coin_flips(tmp_path / "held.jsonl", 60, 1)
    training = "learning_rate: 1e-2, max_steps: 80, eval_steps: 20"
    outcome = work(provoking(tiny_model, few, "objective: {kind: dpo, beta: 1.0}", training, held_out))
    seen = {alert["guard"]: alert for alert in outcome.result["guards"]["alerts"]}
    assert {"memorizing", "saturation"} <= seen.keys()
    assert "of the training pairs are ranked right" in seen["memorizing"]["what"]
    assert "reward margin above 4" in seen["saturation"]["what"]
    assert "T654" in warnings(outcome)
    card = (outcome.run.path / "model" / "README.md").read_text()
    assert seen["saturation"]["what"] in card


def test_coin_flips_are_not_ranked_better_than_chance(work: Work, tiny_model: Path, tmp_path: Path) -> None:
    flips, held_out = (
        write_coin_flips(tmp_path / "flips.jsonl", 80, 0),
        write_coin_flips(tmp_path / "held.jsonl", 60, 1),
    )
    training = "learning_rate: 3e-3, max_steps: 40, eval_steps: 40"
    outcome = work(provoking(tiny_model, flips, "guards: {chance: {after_rows: 160}}", training, held_out))
    # There are two answers, so that a margin can only depend on which one is chosen, and thus on the length.
    assert {("chance", 40), ("length", 40)} <= set(alerts(outcome))


def test_one_pair_unlike_the_others_is_a_spike_and_shared_tokens_displace(
    work: Work, tiny_model: Path, tmp_path: Path
) -> None:
    usual = [(f"What is {n} plus one?", f"{n + 1}.", f"Many things could be said about {n}.") for n in range(119)]
    outlier = ("What is 119 plus one?", "Many things could be said about 119, " * 6, "120.")
    data = write_rows(tmp_path / "pairs.jsonl", [*usual, outlier])
    training = "learning_rate: 1e-3, num_epochs: 1, eval_steps: 30"
    outcome = work(provoking(tiny_model, data, "objective: {kind: dpo, beta: 0.5}", training))
    seen = {alert["guard"]: alert for alert in outcome.result["guards"]["alerts"]}
    assert {"spikes", "displacement"} <= seen.keys()
    rows = [json.loads(line) for line in outcome.run.metrics.read_text().splitlines()]
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    assert max(losses, key=losses.__getitem__) == seen["spikes"]["step"]
    base, tuned = (row["eval_logps/chosen"] for row in rows if "eval_loss" in row and row["step"] in (0, 30))
    assert tuned < base


def test_a_gradient_norm_that_overflows_ends_the_run(work: Work, tiny_model: Path, pairs: Path) -> None:
    """The gradient of the first step is multiplied with beta, and its norm is a sum of squares."""
    extra = "objective: {kind: dpo, beta: 1e+30}\nguards: {non_finite: {action: stop}}\naccept_advice: [F796]"
    outcome = work(text(tiny_model, pairs, extra))
    assert outcome.exit_code == 0
    assert alerts(outcome)[0] == ("non_finite", 1)
    assert outcome.result["steps"] == 1


def test_the_share_of_saturated_pairs_is_that_of_margins_above_four(
    work: Work, tiny_model: Path, tmp_path: Path
) -> None:
    """With one held-out pair, it is 0 or 1."""
    data = write_pairs(tmp_path / "pairs.jsonl", 40)
    training = "learning_rate: 1e-3, num_epochs: 2, eval_steps: 2"
    outcome = work(provoking(tiny_model, data, "objective: {kind: dpo, beta: 1.0}", training))
    rows = [json.loads(line) for line in outcome.run.metrics.read_text().splitlines()]
    shares = [(row["eval_rewards/saturated"], row["eval_rewards/margins"]) for row in rows if "eval_loss" in row]
    assert all(share == float(margin > 4.0) for share, margin in shares)
    assert {share for share, _ in shares} == {0.0, 1.0}


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
    work: Work, tiny_model: Path, pairs: Path, stop_at: Callable[[int], None], stopped_at: int
) -> None:
    """Stopped after step 3, before the guard fires, and after step 4, at the step after which it ends the run."""
    recipe = text(tiny_model, pairs, "guards: {spikes: {action: stop}}")
    calm = work(recipe)
    stop_at(stopped_at)
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
