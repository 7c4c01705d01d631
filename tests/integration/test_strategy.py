"""What several processes share where a recipe leaves that open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import recipe_text, write_pairs

from dpo_recipes.fit.planner.sharding import Sharding
from dpo_recipes.fit.planner.strategy import choose_strategy
from dpo_recipes.hardware.profiles import PROFILES
from dpo_recipes.recipe.schema import Recipe

GIB = 2**30
GPU, CPU = PROFILES["a40-48gb"], PROFILES["cpu"]


def recipe(bits: int | None = None, **launch: Any) -> Recipe:
    model: dict[str, Any] = {"path": "a/b", "adapter": {"kind": "lora"}}
    if bits:
        model["quantization"] = {"bits": bits}
    plain = {"schema": 1, "name": "r", "model": model, "data": {"train": [{"path": "a/b"}]}, "launch": launch}
    return Recipe.model_validate(plain)


class Plan:
    """What is asked of a plan: 40 GiB are there, of 60 that are needed unless they are shared."""

    def __init__(self, sharding: Sharding, needed: float = 60) -> None:
        self.sharding = sharding
        self.spare_bytes = int(40 * GIB - sharding.weights(int(needed * GIB)))
        self.fits = self.spare_bytes >= 0


def _choose(given: Recipe, processes: int, device: Any, needed: float = 60) -> tuple[str, str]:
    plan, reason = choose_strategy(given, processes, device, lambda sharding: Plan(sharding, needed))  # type: ignore
    return plan.sharding.strategy, reason


def test_what_fits_is_not_cut_up() -> None:
    assert _choose(recipe(), 4, GPU, 30) == ("ddp", "the whole job fits each device, with 10.00 GiB to spare")


def test_what_does_not_fit_is() -> None:
    assert _choose(recipe(), 4, GPU) == ("fsdp", "the whole job lacks 20.00 GiB on each device")


def test_where_fsdp_cannot_deepspeed_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpo_recipes.fit.planner.strategy.importlib.util.find_spec", lambda name: object())
    strategy, reason = _choose(recipe(), 2, CPU)
    assert strategy == "deepspeed-zero3"
    assert "`fsdp` cannot: accelerate replaces FSDP on CPUs with DDP" in reason


def test_what_cannot_be_cut_up_stays_whole_and_says_why() -> None:
    strategy, reason = _choose(recipe(bits=8), 4, GPU)
    assert strategy == "ddp"
    assert "it cannot be sharded: FSDP and ZeRO-3 shard only floating-point weights" in reason


def test_a_moving_reference_is_not_sharded() -> None:
    plain = recipe().model_dump(mode="json", by_alias=True, exclude_unset=True)
    live = Recipe.model_validate({**plain, "objective": {"kind": "dpo", "sync_ref_model": True}})
    strategy, reason = _choose(live, 4, GPU)
    assert strategy == "ddp"
    assert reason.endswith("it cannot be sharded: each process needs the moving reference whole")
    assert _choose(live, 4, GPU, 30)[0] == "ddp"


def test_one_process_shares_nothing_and_a_recipe_that_says_is_obeyed() -> None:
    assert _choose(recipe(), 1, GPU) == ("ddp", "one process shares nothing")
    assert _choose(recipe(strategy="deepspeed-zero2"), 4, GPU) == ("deepspeed-zero2", "the recipe says so")


def test_the_plan_shows_what_each_process_does_and_how_they_start(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dpo_recipes.cli import app

    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_text(tiny_model, write_pairs(tmp_path / "pairs.jsonl")), encoding="utf-8")
    command = ["plan", str(path), "--num-processes", "2", "--strategy", "deepspeed-zero2"]
    with pytest.raises(SystemExit):
        app([*command, "--json"])
    plan = json.loads(capsys.readouterr().out)
    assert (plan["num_processes"], plan["strategy"], plan["pairs_per_step"]) == (2, "deepspeed-zero2", 4)
    assert plan["launch"]["gradient_accumulation_steps"] == 1
    assert plan["configurations"]["deepspeed.json"]["train_batch_size"] == 4
    assert plan["command"][1:3] == ["-m", "torch.distributed.run"]
    with pytest.raises(SystemExit):
        app(command)
    text = capsys.readouterr().out
    assert "4 pairs a step: 2 processes × micro-batch 2 × 1 accumulated" in text
    assert "strategy    deepspeed-zero2: the recipe says so" in text
    assert "--nproc-per-node=2 --standalone -m dpo_recipes.worker RUN_DIR" in text
