"""Rates that a run tells: each number is derived by hand."""

from __future__ import annotations

import time
from typing import Any

import pytest
from sharing import make_model

from dpo_recipes.engine.packing import GroupLengths
from dpo_recipes.engine.prefix_sharing import Positions
from dpo_recipes.engine.speed import SpeedMeter, flops_per_token, peak_flops, summarize

# One pair: a prefix of 6, rows of 10 and 8 in a batch 10 wide. 20 padded positions, 12 distinct tokens.
PAIR = GroupLengths((6,), ((10,), (8,)), 10)


def test_positions_saved_are_those_of_packed_batches_only() -> None:
    """One batch packed, one not: 12 + 20 of 40 positions computed, a fifth saved."""
    positions = Positions()
    positions.count(PAIR, packed=True)
    positions.count(PAIR, packed=False)
    assert (positions.distinct, positions.computed, positions.padded) == (24, 32, 40)
    assert positions.share_saved == pytest.approx(0.2)


def test_flops_count_each_weight_of_the_body_twice_for_each_direction() -> None:
    """The embeddings of the two-layer Llama are not tied: 2 × 389 × 32 weights that no matrix product of the body uses.
    A LoRA step computes four operations for each other weight, a full one six."""
    model = make_model()
    total = model.num_parameters()
    body = total - 2 * model.get_input_embeddings().weight.numel()
    assert flops_per_token(model, total, 0) == 4 * body
    assert flops_per_token(model, total, total) == 6 * body
    ends = 2 * model.get_input_embeddings().weight.numel()
    model.requires_grad_(False)
    assert flops_per_token(model, total, 10) == 4 * body + 20
    model.get_input_embeddings().requires_grad_(True)
    model.get_output_embeddings().requires_grad_(True)
    assert flops_per_token(model, total, ends + 10) == 4 * body + 20  # embeddings trained whole are no body


def test_of_experts_those_count_that_a_token_goes_through() -> None:
    """Two of four in each layer of the two-layer Mixtral: three matrices of 32 × 64 in each."""
    model = make_model("mixtral")
    total, experts = model.num_parameters(), 2 * 4 * 3 * 32 * 64
    active = total - 2 * model.get_input_embeddings().weight.numel() - experts // 2
    assert flops_per_token(model, total, total) == 6 * active
    model.requires_grad_(False)
    assert flops_per_token(model, total, 0) == 4 * active


def test_modules_saved_beside_an_adapter_are_counted_once() -> None:
    """The embeddings' trained copies add nothing to what an adapter alone computes."""
    from peft import LoraConfig, get_peft_model

    found = []
    for modules in (None, ["embed_tokens", "lm_head"]):
        base = make_model()
        total = base.num_parameters()
        config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=modules, task_type="CAUSAL_LM")
        model: Any = get_peft_model(base, config)
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        found.append(flops_per_token(base, total, trainable))
    assert found[0] == found[1]


def test_the_share_of_the_devices_rate_is_what_was_computed_over_what_could_have_been() -> None:
    """12 tokens of 100 operations in 2 s are 600 a second: 6 % of 10,000."""
    positions = Positions()
    positions.count(PAIR, packed=True)
    assert summarize(positions, 2.0, 100.0, 10_000.0) == {
        "distinct_tokens_per_second": 6.0,
        "positions_saved": 0.4,
        "matmul_share": 0.06,
    }
    assert summarize(positions, 2.0, 100.0, None)["matmul_share"] is None
    assert set(summarize(Positions(), 2.0, 100.0, 10_000.0).values()) == {None}


def test_rates_are_known_for_named_devices_in_precisions_that_they_have() -> None:
    assert peak_flops("a40-48gb", "bfloat16") == pytest.approx(149.7e12, rel=0.01)
    assert peak_flops("cpu", "bfloat16") is None
    assert peak_flops(None, "float32") is None


def test_a_row_tells_the_rate_since_the_row_before(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    positions = Positions()
    meter = SpeedMeter(positions)
    positions.count(PAIR, packed=True)  # before training began
    now[0] = 110.0
    meter.start()
    positions.count(PAIR, packed=True)
    now[0] = 113.0
    assert meter.since_last()["distinct_tokens_per_second"] == 4.0  # 12 in 3 s
    assert meter.since_last() == {}
    positions.count(PAIR, packed=True)
    now[0] = 114.0
    assert meter.since_last()["distinct_tokens_per_second"] == 12.0
