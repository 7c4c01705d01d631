"""What a worker is started with."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpo_recipes.launch import local
from dpo_recipes.launch.local import CPU_ALLOCATOR_LARGE_PAGES, CPU_ALLOCATOR_SMALL_PAGES, worker_environment
from dpo_recipes.launch.ranks import Rank
from dpo_recipes.recipe.schema import Recipe

PLAIN = {"schema": 1, "name": "r", "model": {"path": "gpt2"}, "data": {"train": [{"path": "a/b"}]}}


def _environment(**sections: object) -> dict[str, str]:
    return worker_environment(Recipe.model_validate({**PLAIN, **sections}))


def test_cpu_workers_get_the_allocator_settings_but_a_persons_own_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "3")
    environment = _environment(hardware={"device": "cpu"})
    assert environment["MALLOC_ARENA_MAX"] == "3"
    assert environment["MALLOC_TRIM_THRESHOLD_"] == local.cpu_allocator()["MALLOC_TRIM_THRESHOLD_"]


@pytest.mark.parametrize(
    ("enabled", "expected"),
    [
        ("always [madvise] never", CPU_ALLOCATOR_LARGE_PAGES),
        ("[always] madvise never", CPU_ALLOCATOR_LARGE_PAGES),
        ("always madvise [never]", CPU_ALLOCATOR_SMALL_PAGES),
        (None, CPU_ALLOCATOR_SMALL_PAGES),
    ],
)
def test_memory_is_kept_where_the_kernel_has_no_large_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enabled: str | None, expected: dict[str, str]
) -> None:
    if enabled:
        (tmp_path / "enabled").write_text(enabled + "\n")
    monkeypatch.setattr(local, "_LARGE_PAGES", tmp_path / "enabled")
    assert local.cpu_allocator() == expected


def test_gpu_workers_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CPU_ALLOCATOR_SMALL_PAGES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("dpo_recipes.launch.local.gpu_names", lambda: ["NVIDIA A40, 46068 MiB"])
    assert not set(CPU_ALLOCATOR_SMALL_PAGES) & set(_environment())


def test_no_more_threads_than_cores_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(local.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(local, "num_cores", lambda: 2)
    assert _environment()["OMP_NUM_THREADS"] == "2"
    assert _environment(launch={"num_threads": 3})["OMP_NUM_THREADS"] == "3"
    monkeypatch.setattr(local, "num_cores", lambda: 64)
    assert "OMP_NUM_THREADS" not in _environment()
    monkeypatch.setattr(local, "num_cores", lambda: 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert _environment()["OMP_NUM_THREADS"] == "5"


def test_what_a_platform_says_of_a_pod_is_no_workers_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    assert not Rank.of(_environment()).is_joined


def test_threads_and_project_reach_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    assert _environment(launch={"num_threads": 3})["OMP_NUM_THREADS"] == "3"
    assert _environment()["WANDB_PROJECT"] == "r"
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    assert _environment()["WANDB_PROJECT"] == "mine"
    assert _environment(tracking={"project": "p"})["WANDB_PROJECT"] == "p"
