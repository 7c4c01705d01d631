"""What a process finds out before and after it joins the others."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import distributed

from dpo_recipes.engine.distributed import (
    SINGLE_PROCESS,
    DistributedContext,
    check_wrapped,
    expected_class,
    join,
    leave,
)
from dpo_recipes.engine.micro_batch import gather_uneven
from dpo_recipes.engine.reference import add_reference, share_of
from dpo_recipes.errors import RunError
from dpo_recipes.launch.ranks import Rank
from dpo_recipes.objectives.dpo import OBJECTIVE as DPO
from dpo_recipes.recipe.schema import Recipe


def recipe(device: str = "cpu", **launch: Any) -> Recipe:
    return Recipe.model_validate({
        "schema": 1, "name": "r", "model": {"path": "gpt2"}, "data": {"train": [{"path": "a/b"}]},
        "hardware": {"device": device}, "launch": launch,
    })  # fmt: skip


def _code(error: pytest.ExceptionInfo[RunError]) -> str:
    return error.value.findings[0].code


def test_alone_every_question_is_answered_at_once() -> None:
    assert SINGLE_PROCESS.total([1.0, 2.0]) == [1.0, 2.0] == SINGLE_PROCESS.highest([1.0, 2.0])
    assert (SINGLE_PROCESS.any(True), SINGLE_PROCESS.any(False)) == (True, False)
    assert (SINGLE_PROCESS.gather("a"), SINGLE_PROCESS.share("b")) == (["a"], "b")
    with SINGLE_PROCESS.one_first():
        SINGLE_PROCESS.wait()


def test_a_process_that_was_started_alone_joins_nothing() -> None:
    assert join(Rank(), recipe(), 1) == SINGLE_PROCESS
    assert not distributed.is_initialized()


def test_another_number_of_processes_than_planned_is_refused() -> None:
    with pytest.raises(RunError, match="planned for 4 processes, and 2 were started") as caught:
        join(Rank(0, 2, 0, 2, is_joined=True), recipe(), 4)
    assert _code(caught) == "T620"


def test_fsdp_on_a_cpu_is_refused_when_the_device_is_known() -> None:
    with pytest.raises(RunError, match="replaces FSDP on CPUs with DDP") as caught:
        join(Rank(0, 2, 0, 2, is_joined=True), recipe("auto", strategy="fsdp"), 2)
    assert _code(caught) == "T621"


def test_a_process_without_a_gpu_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(RunError, match="2 processes on this machine need as many GPUs, and torch sees 1") as caught:
        join(Rank(1, 2, 1, 2, is_joined=True), recipe("cuda"), 2)
    assert _code(caught) == "M507"


def test_one_process_of_a_launcher_has_a_group_that_accelerate_uses(
    monkeypatch: pytest.MonkeyPatch, unused_port: int
) -> None:
    from accelerate.state import AcceleratorState, PartialState

    environment = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    for name, value in {**environment, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(unused_port)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    AcceleratorState._reset_state(reset_partial_state=True)
    processes = join(Rank.of(environment), recipe(timeout_minutes=0.5), 1)
    try:
        group = distributed.group.WORLD
        state = PartialState(cpu=True)
        assert distributed.group.WORLD is group
        assert (state.num_processes, state.process_index) == (1, 0)
        assert processes.any(True)
        rows = gather_uneven(torch.arange(4.0), (3,), 0)
        assert rows.tolist() == [0.0, 1.0, 2.0]
        assert gather_uneven(torch.tensor(5.0), (3,), 0).tolist() == [5.0]
    finally:
        leave(processes)
        AcceleratorState._reset_state(reset_partial_state=True)
    assert not distributed.is_initialized()


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class DistributedDataParallel(torch.nn.Module):
    """A stand-in with the name of the class in which accelerate wraps a model."""


class DeepSpeedEngine(torch.nn.Module):
    """A stand-in with the name of the class in which DeepSpeed wraps a model."""


class FSDPModule:
    """A stand-in with the name of the class that torch's fully_shard adds as a base."""


class FSDPLlama(FSDPModule, torch.nn.Module):
    """A class as fully_shard makes it."""


@pytest.mark.parametrize(
    ("model", "strategy", "processes"),
    [
        (torch.nn.Module(), "ddp", 1),
        (DistributedDataParallel(), "ddp", 2),
        (DeepSpeedEngine(), "deepspeed-zero1", 1),
        (DeepSpeedEngine(), "deepspeed-zero3", 2),
        (FSDPLlama(), "fsdp", 2),
    ],
)
def test_a_model_that_is_what_was_asked_for_passes(model: Any, strategy: str, processes: int) -> None:
    check_wrapped(model, strategy, processes, processes)


@pytest.mark.parametrize(
    ("model", "strategy"),
    [
        (torch.nn.Module(), "ddp"),  # evaluated before training, accelerate leaves it bare
        (DistributedDataParallel(), "fsdp"),  # what accelerate makes of FSDP on a CPU
        (DistributedDataParallel(), "deepspeed-zero2"),
    ],
)
def test_a_silent_fallback_is_an_error(model: Any, strategy: str) -> None:
    with pytest.raises(RunError, match="is not in effect") as caught:
        check_wrapped(model, strategy, 2, 2)
    assert _code(caught) == "T621"


def test_processes_that_the_trainer_does_not_count_are_an_error() -> None:
    with pytest.raises(RunError, match="the trainer counts 1") as caught:
        check_wrapped(torch.nn.Module(), "ddp", 2, 1)
    assert _code(caught) == "T620"


def test_names_of_classes_are_those_of_the_libraries() -> None:
    from torch.distributed.fsdp import FSDPModule as Torchs

    assert expected_class("ddp", 2) == torch.nn.parallel.DistributedDataParallel.__name__
    assert expected_class("fsdp", 2) == Torchs.__name__
    assert expected_class("ddp", 1) is None


def test_work_lists_are_equally_long_and_every_batch_counts_once() -> None:
    batches = [[4, 1], [2], [3], [0], [5]]
    lists = [list(share_of(batches, rank, 2)) for rank in range(2)]
    assert lists[0] == [([4, 1], True), ([3], True), ([5], True)]
    assert lists[1] == [([2], True), ([0], True), ([5], False)]
    assert list(share_of(batches, 0, 1)) == [(batch, True) for batch in batches]


def test_processes_with_different_pairs_end_the_run(tmp_path: Path) -> None:
    class Disagreeing(DistributedContext):
        def gather(self, value: Any) -> list[Any]:
            return [value, "another"]

    trainer: Any = type(
        "Trainer", (), {"distributed": Disagreeing(Rank(0, 2, 0, 2)), "context": SimpleNamespace(objective=DPO)}
    )()
    with pytest.raises(RunError, match="different pairs") as caught:
        add_reference(trainer, [{"prompt_ids": [1], "answer_ids": [[2], [3]]}], "train")
    assert _code(caught) == "T622"
