"""The drift from the base: the KL divergence of a tuned adapter, estimated on its own samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import recipe_text, write_pairs

from dpo_recipes.evaluate.drift import estimate_drift
from dpo_recipes.finished_run import open_run

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


def test_no_estimate_without_a_base_or_a_guard(work: Work, tiny_model: Path, pairs: Path) -> None:
    assert work(recipe_text(tiny_model, pairs, adapter="null")).result["drift"] is None
    off = work(recipe_text(tiny_model, pairs, "guards: {drift: {action: off}}"))
    assert off.result["drift"] is None


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
    drift = estimate_drift(model, loaded, [prompt] * 500, 1, seed=0, changes_base=False)
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
    none = estimate_drift(model, loaded, [prompt] * 3, 8, seed=0, changes_base=False)
    assert none is not None
    assert none.nats_per_answer == pytest.approx(0.0, abs=1e-5)
