"""The parts of the fit estimate that need no model: workloads, shards, optimizers, and the search for changes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest

from dpo_recipes.errors import RunError
from dpo_recipes.fit.planner.changes import SAME_RESULT, Outcome, apply, as_written, find_changes
from dpo_recipes.fit.planner.disk import check_space
from dpo_recipes.fit.planner.optimizers import optimizer_cost
from dpo_recipes.fit.planner.sharding import Sharding
from dpo_recipes.fit.planner.workload import Workload, assume_workload
from dpo_recipes.hardware import machine
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.schema.training import Optimizer

GIB = 2**30


def minimal_recipe() -> dict[str, Any]:
    return {"schema": 1, "name": "minimal", "model": {"path": "owner/model"}, "data": {"train": [{"path": "a/b"}]}}


def recipe(**training: Any) -> Recipe:
    plain = minimal_recipe()
    plain["training"] = {"micro_batch_size": 8, "gradient_accumulation_steps": 2, **training}
    return Recipe.model_validate(plain)


@pytest.mark.parametrize("name", get_args(Optimizer))
def test_every_optimizer_of_the_schema_has_its_cost(name: str) -> None:
    on_cuda, on_cpu = optimizer_cost(name, "cuda"), optimizer_cost(name, "cpu")
    assert on_cuda.state == on_cpu.state
    assert 0 <= on_cpu.step <= on_cuda.step


def test_adam_keeps_two_float32_and_its_8_bit_form_two_bytes() -> None:
    assert optimizer_cost("adamw_torch", "cpu").state == 8
    assert optimizer_cost("paged_adamw_8bit", "cuda").state == pytest.approx(2 + 8 / 256)
    assert optimizer_cost("paged_adamw_8bit", "cuda").is_paged


@pytest.mark.parametrize(
    ("strategy", "weights", "gradients", "optimizer"),
    [
        ("ddp", 800, 1600, 800),  # the buckets of DDP hold the gradients once more
        ("deepspeed-zero1", 800, 800, 200),
        ("deepspeed-zero2", 800, 200, 200),
        ("deepspeed-zero3", 200, 200, 200),
        ("fsdp", 200, 200, 200),
    ],
)
def test_shards_of_four_processes(strategy: Any, weights: int, gradients: int, optimizer: int) -> None:
    sharding = Sharding(4, strategy)
    assert (sharding.weights(800), sharding.gradients(800), sharding.optimizer(800)) == (weights, gradients, optimizer)


def test_one_process_holds_all_once() -> None:
    assert Sharding().gradients(800) == 800


def test_the_longest_pairs_may_meet_in_one_micro_batch() -> None:
    lengths = np.array([[10, 1, 1], [50, 20, 30], [5, 5, 5], [40, 9, 9]])
    workload = Workload({"train": 4}, {"train": lengths})
    longest = workload.longest(recipe(micro_batch_size=2))
    assert longest.tolist() == [[50, 20, 30], [40, 9, 9]]
    assert workload.tokens("train") == lengths.sum()


def test_a_budget_of_tokens_bounds_the_largest_micro_batch() -> None:
    lengths = np.array([[10, 1, 1], [50, 20, 30], [5, 5, 5], [40, 9, 9], [20, 10, 11]])
    workload = Workload({"train": 5}, {"train": lengths})
    by_tokens = recipe(micro_batch_size=1, gradient_accumulation_steps=4, max_tokens_per_pass=130)
    assert workload.longest(by_tokens).tolist() == [[50, 20, 30], [5, 5, 5]]
    assert len(workload.longest(by_tokens, shares=False)) == 1  # 160 positions, more than a pass may have
    one = recipe(micro_batch_size=1, gradient_accumulation_steps=1, max_tokens_per_pass=500)
    assert [len(workload.longest(one, processes)) for processes in (1, 4)] == [1, 4]
    assert len(workload.typical(by_tokens)) == 2  # of 46 tokens each
    assert (
        len(workload.longest(recipe(micro_batch_size=1, gradient_accumulation_steps=2, max_tokens_per_pass=130))) == 2
    )


def test_less_memory_is_a_smaller_budget_and_never_less_than_a_pair_may_have() -> None:
    by_tokens = recipe(micro_batch_size=2, gradient_accumulation_steps=4, max_tokens_per_pass=9000)
    tried: list[Recipe] = []

    def try_(variant: Recipe) -> Outcome:
        tried.append(variant)
        return Outcome(1, 1.0, fits=variant.training.max_tokens_per_pass == 2 * variant.data.max_length)

    change = next(find_changes(by_tokens, try_, is_cuda=True))
    assert change.settings == {"training.max_tokens_per_pass": 2 * by_tokens.data.max_length}
    assert [variant.training.max_tokens_per_pass for variant in tried][:3] == [4500, 2250, 2048]


def test_data_that_are_not_read_are_as_long_as_the_recipe_lets_them_be() -> None:
    plain = minimal_recipe()
    plain["data"] = {"train": [{"path": "a/b", "limit": 100}, {"path": "c/d", "select": {"top": 30, "by": "x"}}]}
    plain["data"] |= {"eval": {"fraction": 0.1}, "max_length": 64}
    some = Recipe.model_validate(plain)
    workload = assume_workload(some)
    assert workload.num_rows == {"train": 117, "eval": 13, "test": 0}
    assert not workload.is_read
    assert workload.longest(some)[0].tolist() == [32, 32, 32]


def test_pairs_of_a_source_without_limit_are_unknown() -> None:
    assert assume_workload(recipe()).num_rows["train"] is None


class Memory:
    """A device on which a job takes its micro-batch in GiB, half with checkpointing, and 2 for a 32-bit optimizer."""

    def __init__(self, gib: float) -> None:
        self.bytes = gib * GIB
        self.tried: list[Recipe] = []

    def __call__(self, wanted: Recipe) -> Outcome:
        self.tried.append(wanted)
        training = wanted.training
        share = 0.5 if training.gradient_checkpointing else 1.0
        optimizer = 1 if "8bit" in training.optimizer else 2
        peak = int((training.micro_batch_size * share + optimizer) * GIB)
        seconds = 1.3 if training.gradient_checkpointing else 1 + 1 / training.micro_batch_size
        return Outcome(peak, seconds, peak <= self.bytes)


def test_the_faster_of_the_changes_that_keep_the_result_comes_first() -> None:
    changes = list(find_changes(recipe(), Memory(6.0), is_cuda=True))
    assert [change.settings for change in changes] == [
        {"training.micro_batch_size": 4, "training.gradient_accumulation_steps": 4},  # 1.25 s a step
        {"training.gradient_checkpointing": True},  # 1.3 s
    ]
    assert all(change.fits and change.price == SAME_RESULT for change in changes)


def test_the_effective_batch_stays() -> None:
    memory = Memory(2.6)
    changes = list(find_changes(recipe(), memory, is_cuda=True))
    assert changes[0].settings == {
        "training.micro_batch_size": 1,
        "training.gradient_accumulation_steps": 16,
        "training.gradient_checkpointing": True,
    }
    pairs = {r.training.micro_batch_size * r.training.gradient_accumulation_steps for r in memory.tried}
    assert pairs == {16}


def test_a_leaner_optimizer_comes_after_all_that_keeps_the_result() -> None:
    change = next(find_changes(recipe(), Memory(1.6), is_cuda=True))
    assert change.settings["training.optimizer"] == "adamw_8bit"
    assert change.fits
    assert change.price != SAME_RESULT


def test_where_nothing_is_enough_the_other_jobs_are_shown() -> None:
    changes = list(find_changes(recipe(), Memory(0.1), is_cuda=True))
    assert [change.fits for change in changes] == [False] * len(changes)
    assert {path for change in changes for path in change.settings} >= {
        "model.adapter",
        "model.quantization",
        "data.max_length",
    }


def test_no_8_bit_optimizer_is_proposed_where_it_does_not_run() -> None:
    changes = list(find_changes(recipe(), Memory(0.1), is_cuda=False))
    assert not any("training.optimizer" in change.settings for change in changes)
    assert not any("model.quantization" in change.settings for change in changes)


@pytest.mark.parametrize("loss", ["aot", "sft"])
def test_a_micro_batch_that_the_loss_depends_on_is_only_changed_by_a_person(loss: str) -> None:
    given = apply(recipe(), {"objective.loss_type": loss})
    changes = list(find_changes(given, Memory(6.0), is_cuda=True))
    assert [change.settings for change in changes] == [{"training.gradient_checkpointing": True}]
    memory = Memory(4.4)  # 8 pairs with checkpointing and an 8-bit optimizer take 5 GiB, 4 pairs 3
    changes = list(find_changes(given, memory, is_cuda=True))
    leanest = {"training.gradient_checkpointing": True, "training.optimizer": "adamw_8bit"}
    assert changes[0].settings == leanest
    assert not changes[0].fits
    smaller = changes[1]
    assert smaller.settings == {
        **leanest, "training.micro_batch_size": 4, "training.gradient_accumulation_steps": 4
    }  # fmt: skip
    assert (smaller.fits, smaller.is_same_job) == (True, False)
    assert "the loss of DPO" in smaller.price
    assert all(change.settings.get("training.micro_batch_size", 8) == 8 for change in changes if change.is_same_job)


@pytest.mark.parametrize(("loss", "least"), [("aot", 2), ("sft", 1)])
def test_no_loss_that_compares_rows_is_left_with_a_single_one(loss: str, least: int) -> None:
    changes = find_changes(apply(recipe(), {"objective.loss_type": loss}), Memory(0.1), is_cuda=True)
    sizes = [change.settings.get("training.micro_batch_size") for change in changes]
    assert [size for size in sizes if size is not None] == [least]


@pytest.mark.parametrize(
    ("meant", "processes", "written"),
    [
        ("auto", 1, {"training.gradient_accumulation_steps": 6}),
        ("auto", 4, {"training.gradient_accumulation_steps": 24}),
        (2, 4, {"training.gradient_accumulation_steps": 12}),
        (4, 4, {"training.gradient_accumulation_steps": 6}),
        (8, 2, {"training.gradient_accumulation_steps": 6, "launch.num_processes": 2}),  # 6 × 2 / 8 is no whole number
    ],
)
def test_changes_for_one_of_several_processes_are_written_for_the_recipe(
    meant: Any, processes: int, written: dict[str, int]
) -> None:
    given = apply(recipe(), {"launch.num_processes": meant})
    settings = {"training.micro_batch_size": 1, "training.gradient_accumulation_steps": 6}
    assert as_written(settings, given, processes) == {"training.micro_batch_size": 1, **written}
    assert as_written({"training.gradient_checkpointing": True}, given, 4) == {"training.gradient_checkpointing": True}


def test_apply_changes_nothing_else() -> None:
    before = recipe()
    after = apply(before, {"training.micro_batch_size": 2, "model.adapter": {"kind": "lora"}})
    assert after.training.micro_batch_size == 2
    assert after.model.adapter is not None
    assert apply(after, {"training.micro_batch_size": 8, "model.adapter": None}) == before


@pytest.mark.parametrize(
    ("limit", "used"), [("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")]
)
def test_limits_of_control_groups_are_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str, used: str
) -> None:
    monkeypatch.setattr(machine, "control_groups", lambda: [tmp_path / "inner", tmp_path])
    (tmp_path / limit).write_text(str(4 * GIB))
    (tmp_path / used).write_text(str(2 * GIB))
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {GIB}\n")
    assert machine.free_memory_bytes("cpu") <= 3 * GIB
    assert machine._container_limit_bytes() == 3 * GIB
    (tmp_path / limit).write_text("max")
    assert machine._container_limit_bytes() is None


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 16),
        ({"inner/cpu.max": "max 100000", "cpu.max": "max 100000"}, 16),
        ({"inner/cpu.max": "max 100000", "cpu.max": "250000 100000"}, 3),
        ({"inner/cpu.max": "50000 100000"}, 1),
        ({"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}, 16),
        ({"cpu.cfs_quota_us": "400000", "cpu.cfs_period_us": "100000"}, 4),
    ],
    ids=str,
)
def test_cores_are_those_that_control_groups_give_time_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str], expected: int
) -> None:
    (tmp_path / "inner").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(machine, "control_groups", lambda controller: [tmp_path / "inner", tmp_path])
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    assert machine.num_cores() == expected


def test_kills_for_memory_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "control_groups", lambda: [tmp_path])
    assert machine.num_out_of_memory_kills() == 0
    (tmp_path / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    assert machine.num_out_of_memory_kills() == 2


def test_a_disk_that_is_too_small_is_found_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(free=10**9)
    monkeypatch.setattr("dpo_recipes.fit.planner.disk.shutil.disk_usage", lambda path: usage)
    needs = {"base": None, "checkpoint": 10**8, "checkpoints": 3 * 10**8, "model": 10**8}
    assert check_space(needs, tmp_path) == []
    usage.free = 3 * 10**8
    (warning,) = check_space(needs, tmp_path)
    assert (warning.code, warning.severity) == ("T602", "warning")
    usage.free = 10**8
    with pytest.raises(RunError, match=r"0\.10 GB are free"):
        check_space(needs, tmp_path)
