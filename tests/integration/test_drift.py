"""The drift from the base: the KL divergence of a tuned model, estimated on its own samples."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import recipe_text, write_pairs
from transformers import AutoModelForCausalLM

from dpo_recipes.evaluate.drift import base_within, estimate_drift
from dpo_recipes.evaluate.samples import Samples
from dpo_recipes.finished_run import open_run
from dpo_recipes.prepared_data import prepare_data

Work = Callable[..., "Outcome"]  # noqa: F821


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs.jsonl")


def test_a_run_with_an_adapter_shows_its_drift_and_compares_it_with_a_budget(
    work: Work, tiny_model: Path, pairs: Path
) -> None:
    outcome = work(recipe_text(tiny_model, pairs, "guards: {drift: {nats_per_answer: 1e-9}}"))
    drift = outcome.result["drift"]
    assert drift["answers"] == 2
    assert 2 <= drift["tokens"] <= 16
    assert drift["nats_per_answer"] * 2 == pytest.approx(drift["nats_per_token"] * drift["tokens"], abs=1e-3)
    fired = "drift" in [alert["guard"] for alert in outcome.result["guards"]["alerts"]]
    assert fired == (drift["nats_per_answer"] > 1e-9)
    assert f"{drift['nats_per_answer']:.2f}" in outcome.run.report.read_text()


def test_no_estimate_without_prompts_or_a_guard(work: Work, tiny_model: Path, pairs: Path) -> None:
    text = recipe_text(tiny_model, pairs, adapter="null")
    assert work(text, "guards.drift.action=off").result["drift"] is None
    assert work(text, "evaluation.num_samples=0").result["drift"] is None


def test_a_model_that_was_tuned_whole_is_compared_with_its_base_loaded_again(
    work: Work, tiny_model: Path, pairs: Path
) -> None:
    """The saved model and the base give the same estimate with the same seed."""
    outcome = work(recipe_text(tiny_model, pairs, "guards: {drift: {nats_per_answer: 1e-9}}", adapter="null"))
    run = open_run(outcome.run.path)
    loaded = run.load()
    splits = prepare_data(run.recipe, lambda name, detail: None, trust_remote_code=False).splits
    samples = Samples.choose(splits, run.recipe.evaluation)
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    expected = estimate_drift(
        loaded.policy, loaded, samples.prompts(loaded), samples.max_new_tokens, seed=42, base=nullcontext(base)
    )
    assert expected is not None
    assert outcome.result["drift"] == pytest.approx(expected.model_dump(), abs=2e-3)
    assert abs(expected.nats_per_answer) > 0.01
    assert ("drift" in [alert["guard"] for alert in outcome.result["guards"]["alerts"]]) == (
        expected.nats_per_answer > 0
    )


@pytest.mark.parametrize(
    ("adapter", "objective"),
    [
        ("null", "dpo"),
        ("{kind: lora, r: 4}", "orpo"),
        ("{kind: lora, r: 4, init: pissa}", "dpo"),  # TRL keeps the first state of the adapter
        ("{kind: lora, r: 4, init: pissa}", "orpo"),  # the base is loaded again
    ],
)
def test_an_unchanged_model_has_not_drifted(
    work: Work, tiny_model: Path, pairs: Path, adapter: str, objective: str
) -> None:
    text = recipe_text(tiny_model, pairs, f"objective: {{kind: {objective}}}", adapter)
    drift = work(text, "training.learning_rate=1e-12", "training.max_steps=1").result["drift"]
    assert drift["answers"] == 2
    assert drift["nats_per_answer"] == pytest.approx(0.0, abs=1e-3)


def fail(*arguments: Any) -> None:
    raise ValueError("no such layer\nand more")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("model.loading.free_memory_bytes", lambda kind: 10, "loading it takes 0.0 GiB beside the trained one"),
        ("evaluate.drift.reload_base", fail, "ValueError: no such layer"),
    ],
)
def test_a_base_that_cannot_be_loaded_again_ends_no_run(
    work: Work, tiny_model: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: Any, reason: str
) -> None:
    monkeypatch.setattr(f"dpo_recipes.{name}", value)
    outcome = work(recipe_text(tiny_model, pairs, adapter="null"), "training.max_steps=1")
    assert outcome.exit_code == 0
    assert outcome.result["drift"] is None
    notes = [event["text"] for event in outcome.events if event["event"] == "note"]
    assert any(note.startswith(f"the drift from the base is not estimated: {reason}") for note in notes)


def test_the_estimate_is_zero_for_the_base_and_near_the_exact_divergence(
    work: Work, tiny_model: Path, pairs: Path
) -> None:
    """For answers of one token the divergence is a sum over the vocabulary."""
    loaded = open_run(work(recipe_text(tiny_model, pairs)).run.path).load()
    model: Any = loaded.policy
    prompt = "<|im_start|>user\nWhat is 3 plus one?<|im_end|>\n<|im_start|>assistant\n"
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    state = torch.random.get_rng_state()
    drift = estimate_drift(model, loaded, [prompt] * 500, 1, seed=0, base=base_within(model))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert drift is not None
    ids = loaded.tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        tuned = model(ids).logits[0, -1].float().log_softmax(-1)
        with model.disable_adapter():
            base = model(ids).logits[0, -1].float().log_softmax(-1)
    exact = (tuned.exp() * (tuned - base)).sum().item()
    assert exact > 0.01
    assert drift.standard_error is not None
    assert abs(drift.nats_per_answer - exact) < 4 * drift.standard_error
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    none = estimate_drift(model, loaded, [prompt] * 3, 8, seed=0, base=base_within(model))
    assert none is not None
    assert none.nats_per_answer == pytest.approx(0.0, abs=1e-5)
