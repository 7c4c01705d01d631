"""The effective batch stays what the recipe says, however many processes there are."""

from __future__ import annotations

from typing import Any

import pytest

from dpo_recipes.errors import RecipeError
from dpo_recipes.launch import choose
from dpo_recipes.launch.batch import BatchPlan, count_processes, effective_batch, plan_batch, with_batch
from dpo_recipes.launch.choose import LaunchFlags, describe_idle, flags_of_retry
from dpo_recipes.recipe.schema import Recipe


def recipe(
    micro: int = 4, accumulation: int = 8, device: str = "auto", loss: str | list[str] = "sigmoid", **launch: Any
) -> Recipe:
    return Recipe.model_validate({
        "schema": 1, "name": "r", "model": {"path": "gpt2"}, "data": {"train": [{"path": "a/b"}]},
        "training": {"micro_batch_size": micro, "gradient_accumulation_steps": accumulation},
        "hardware": {"device": device}, "launch": launch, "objective": {"kind": "dpo", "loss_type": loss},
    })  # fmt: skip


@pytest.mark.parametrize(
    ("meant", "processes", "micro", "accumulation"),
    [
        ("auto", 1, 4, 8),
        ("auto", 2, 4, 4),  # 32 pairs / (4 × 2)
        ("auto", 8, 4, 1),
        ("auto", 16, 2, 1),  # a process has 2 pairs
        ("auto", 32, 1, 1),
        (4, 4, 4, 8),  # as meant
        (4, 1, 4, 32),  # the same 128 pairs on one process
        (3, 2, 4, 12),  # 96 pairs
        (3, 16, 3, 2),  # 6 pairs a process: 4 does not divide them, 3 does
    ],
)
def test_accumulation_makes_up_for_the_number_of_processes(
    meant: Any, processes: int, micro: int, accumulation: int
) -> None:
    given = recipe(num_processes=meant)
    plan = plan_batch(given, processes)
    assert (plan.micro_batch_size, plan.gradient_accumulation_steps) == (micro, accumulation)
    assert plan.rows_per_step == effective_batch(given)


def test_processes_that_do_not_divide_the_batch_are_refused_with_both_ways_out() -> None:
    with pytest.raises(RecipeError) as caught:
        plan_batch(recipe(), 3)
    (finding,) = caught.value.findings
    assert finding.code == "R340"
    assert finding.what == "3 processes do not divide the 32 pairs of a step"
    assert "take 2 or 4 processes" in (finding.fix or "")
    assert "gradient_accumulation_steps=9`, which makes it 36 pairs" in (finding.fix or "")
    with pytest.raises(RecipeError, match="take 32 processes"):
        plan_batch(recipe(), 64)


@pytest.mark.parametrize("accumulation", [9])
def test_the_way_out_that_is_named_is_one(accumulation: int) -> None:
    assert plan_batch(recipe(accumulation=accumulation), 3).rows_per_step == 36


@pytest.mark.parametrize(
    ("launch", "gpus", "flags", "counted"),
    [
        ({}, 0, {}, (1, 1)),
        ({}, 4, {}, (4, 1)),
        ({"num_nodes": 2}, 4, {}, (8, 2)),
        ({"num_nodes": 2}, 0, {}, (2, 2)),
        ({"num_processes": 2}, 4, {}, (2, 1)),
        ({"num_processes": 2}, 4, {"num_processes": 3}, (3, 1)),
        ({}, 8, {"num_nodes": 2}, (16, 2)),
        ({}, 6, {}, (4, 1)),  # 32 pairs are not divisible by 6
        ({}, 5, {"num_nodes": 2}, (8, 2)),
        ({}, 8, {"num_nodes": 3}, (24, 3)),  # no number of processes on three nodes divides them: R340
    ],
)
def test_flags_go_before_the_recipe_and_auto_is_one_a_gpu(
    launch: Any, gpus: int, flags: Any, counted: tuple[int, int]
) -> None:
    assert count_processes(recipe(**launch), gpus, **flags) == counted


FIXED = pytest.mark.parametrize("loss", ["aot", "aot_unpaired", ["sigmoid", "sft"]], ids=str)
"""Losses that depend on the micro-batch."""


@FIXED
@pytest.mark.parametrize(
    ("meant", "processes", "accumulation"), [("auto", 1, 8), ("auto", 2, 4), ("auto", 8, 1), (4, 1, 32), (3, 2, 12)]
)
def test_a_micro_batch_that_the_loss_depends_on_is_the_same_for_any_number_of_processes(
    loss: Any, meant: Any, processes: int, accumulation: int
) -> None:
    plan = plan_batch(recipe(loss=loss, num_processes=meant), processes)
    assert (plan.micro_batch_size, plan.gradient_accumulation_steps) == (4, accumulation)


@FIXED
def test_processes_that_would_need_a_smaller_one_are_refused(loss: Any) -> None:
    assert plan_batch(recipe(), 16).micro_batch_size == 2
    with pytest.raises(RecipeError) as caught:
        plan_batch(recipe(loss=loss), 16)
    (finding,) = caught.value.findings
    assert finding.code == "R340"
    assert finding.what == "16 processes do not divide the 8 micro-batches of a step"
    assert "whole micro-batches of 4 pairs, because the loss of DPO (" in (finding.why or "")
    assert "take 8 processes" in (finding.fix or "")
    assert "gradient_accumulation_steps=16`, which makes it 64 pairs" in (finding.fix or "")
    assert plan_batch(recipe(loss=loss, accumulation=16), 16).micro_batch_size == 4
    with pytest.raises(RecipeError, match="2 processes do not divide the only micro-batch of a step"):
        plan_batch(recipe(loss=loss, accumulation=1), 2)


def test_auto_leaves_out_gpus_that_would_need_a_smaller_one() -> None:
    assert count_processes(recipe(accumulation=2), 8) == (8, 1)
    few = recipe(accumulation=2, loss="aot")
    assert count_processes(few, 8) == (2, 1)
    idle = describe_idle(few, plan_batch(few, 2), LaunchFlags(), 8)
    assert idle is not None
    assert "the 2 micro-batches of a step are not divisible by 8" in idle


def test_a_retry_without_failed_gpus_keeps_the_micro_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "count_gpus", lambda: 3)
    wide = recipe(accumulation=3)
    assert flags_of_retry(wide, None, 4, "ddp").num_processes == 3
    assert flags_of_retry(recipe(accumulation=4, loss="aot"), None, 4, "ddp").num_processes == 2


def test_a_recipe_for_the_cpu_leaves_gpus_alone() -> None:
    assert count_processes(recipe(device="cpu"), 8) == (1, 1)


def test_nodes_have_equal_numbers_of_processes() -> None:
    with pytest.raises(RecipeError, match="take 4 or 6 processes") as caught:
        count_processes(recipe(), 0, num_processes=5, num_nodes=2)
    assert caught.value.findings[0].code == "R341"


def test_the_plan_says_what_it_is_and_reaches_the_worker() -> None:
    plan = BatchPlan(8, 2, 2, 4)
    assert plan.describe("pair") == "64 pairs a step: 8 processes on 2 nodes × micro-batch 2 × 4 accumulated"
    assert plan.describe("answer").startswith("64 answers a step: ")
    assert plan.processes_per_node == 4
    training = with_batch(recipe(), plan).training
    assert (training.micro_batch_size, training.gradient_accumulation_steps) == (2, 4)
