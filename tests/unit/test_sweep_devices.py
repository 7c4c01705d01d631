"""How GPUs, cores and memory are divided among runs of a sweep that are executed at the same time."""

from __future__ import annotations

import pytest

from dpo_recipes.fit.planner.target import this_machine
from dpo_recipes.jobs import devices
from dpo_recipes.jobs.devices import DeviceWish, share_devices
from dpo_recipes.launch.choose import LaunchFlags
from dpo_recipes.recipe.schema import Recipe


def _recipe(parallel: int, **sections: object) -> Recipe:
    return Recipe.model_validate(
        {
            "schema": 1,
            "name": "job",
            "model": {"path": "a/b"},
            "data": {"train": [{"path": "a/b"}]},
            "sweep": {"seeds": 2, "parallel": parallel},
            **sections,
        }
    )


def _share(recipe: Recipe, flags: LaunchFlags) -> list[dict[str, str]]:
    assert recipe.sweep is not None
    return share_devices([DeviceWish.of(recipe)], recipe.sweep.parallel, flags)


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 8 cores, 12 GB of free memory and without GPUs, where nothing is set."""
    monkeypatch.setattr(devices, "free_memory_bytes", lambda kind: 12_000_000_000)
    monkeypatch.setattr(devices, "count_gpus", lambda: 0)
    monkeypatch.setattr(devices, "num_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("parallel", "gpus", "shares"),
    [
        (2, 4, ["0,1", "2,3"]),
        (4, 4, ["0", "1", "2", "3"]),
        (8, 3, ["0", "1", "2"]),
        (2, 3, ["0", "1"]),  # equal shares, so that each trial has the same number of processes
        (1, 2, ["0,1"]),
    ],
)
def test_each_run_has_gpus_of_its_own(
    parallel: int, gpus: int, shares: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "count_gpus", lambda: gpus)
    assert _share(_recipe(parallel), LaunchFlags()) == [{"CUDA_VISIBLE_DEVICES": share} for share in shares]


def test_gpus_that_are_hidden_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, 3,5")
    monkeypatch.setattr(devices, "count_gpus", lambda: 3)
    found = _share(_recipe(3), LaunchFlags())
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in found] == ["GPU-a", "3", "5"]


def test_a_run_of_several_processes_gets_as_many_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "count_gpus", lambda: 4)
    wanted = [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "2,3"}]
    assert _share(_recipe(4, launch={"num_processes": 2}), LaunchFlags()) == wanted
    assert _share(_recipe(4), LaunchFlags(num_processes=2)) == wanted
    assert _share(_recipe(2), LaunchFlags(num_processes=8)) == [{"CUDA_VISIBLE_DEVICES": "0,1,2,3"}]


HALF = {"DPO_RECIPE_MEMORY_BYTES": "6000000000"}


def test_memory_is_divided_and_cores_are_unless_the_number_of_threads_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {**HALF, "OMP_NUM_THREADS": "4"}
    assert _share(_recipe(2), LaunchFlags()) == [both] * 2
    assert _share(_recipe(1), LaunchFlags()) == [{}]
    assert _share(_recipe(2, launch={"num_threads": 3}), LaunchFlags()) == [HALF, HALF]
    monkeypatch.setattr(devices, "count_gpus", lambda: 2)
    assert _share(_recipe(2, hardware={"device": "cpu"}), LaunchFlags()) == [both] * 2
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert _share(_recipe(2, hardware={"device": "cpu"}), LaunchFlags()) == [HALF, HALF]


def test_a_run_is_planned_for_its_share_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the smaller one of the share and of what is free when the run starts."""
    recipe = _recipe(2, hardware={"device": "cpu"})
    monkeypatch.setenv("DPO_RECIPE_MEMORY_BYTES", "50000000")
    assert this_machine(recipe).usable_bytes == 50_000_000
    assert this_machine(recipe).shared_by(2).usable_bytes == 25_000_000
    monkeypatch.setenv("DPO_RECIPE_MEMORY_BYTES", str(2**60))
    assert 50_000_000 < this_machine(recipe).usable_bytes < 2**50


def test_runs_that_start_elsewhere_share_nothing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "count_gpus", lambda: 2)
    assert _share(_recipe(3, launch={"backend": "slurm"}), LaunchFlags()) == [{}, {}, {}]


def test_auto_is_as_many_runs_as_there_are_gpus_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert share_devices([DeviceWish(), DeviceWish("cpu")], "auto", LaunchFlags()) == [{}]
    assert share_devices([DeviceWish(is_elsewhere=True)], "auto", LaunchFlags()) == [{}]
    monkeypatch.setattr(devices, "count_gpus", lambda: 4)
    wishes = [DeviceWish(num_processes=2), DeviceWish("cpu")]
    assert share_devices(wishes, "auto", LaunchFlags()) == [
        {"CUDA_VISIBLE_DEVICES": "0,1"},
        {"CUDA_VISIBLE_DEVICES": "2,3"},
    ]
    assert share_devices([DeviceWish("cpu")], "auto", LaunchFlags()) == [{}]
