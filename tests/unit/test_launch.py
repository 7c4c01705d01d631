"""What a worker is started with."""

from __future__ import annotations

import pytest

from dpo_recipes.launch.local import CPU_ALLOCATOR, worker_environment
from dpo_recipes.recipe.schema import Recipe

PLAIN = {"schema": 1, "name": "r", "model": {"path": "gpt2"}, "data": {"train": [{"path": "a/b"}]}}


def _environment(**sections: object) -> dict[str, str]:
    return worker_environment(Recipe.model_validate({**PLAIN, **sections}))


def test_cpu_workers_get_the_allocator_settings_but_a_persons_own_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "3")
    environment = _environment(hardware={"device": "cpu"})
    assert environment["MALLOC_ARENA_MAX"] == "3"
    assert environment["MALLOC_MMAP_MAX_"] == CPU_ALLOCATOR["MALLOC_MMAP_MAX_"]


def test_gpu_workers_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CPU_ALLOCATOR:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("dpo_recipes.launch.local.gpu_names", lambda: ["NVIDIA A40, 46068 MiB"])
    assert not set(CPU_ALLOCATOR) & set(_environment())


def test_threads_and_project_reach_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    assert _environment(launch={"num_threads": 3})["OMP_NUM_THREADS"] == "3"
    assert _environment()["WANDB_PROJECT"] == "r"
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    assert _environment()["WANDB_PROJECT"] == "mine"
    assert _environment(tracking={"project": "p"})["WANDB_PROJECT"] == "p"
