"""Locks of models and datasets on the hub: pinned by commit and digest, without downloading weights."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hub_server import COMMIT, hub_environment, serve_hub
from tiny import recipe_text, write_pairs

Command = Callable[..., Any]
LATER = "f" * 40
CARD = """---
configs:
- config_name: default
  data_files:
  - {split: train, path: train.jsonl}
  - {split: test, path: test.jsonl}
---
"""


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "dataset"
    folder.mkdir()
    write_pairs(folder / "train.jsonl", 30)
    write_pairs(folder / "test.jsonl", 5)
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture
def hub(tiny_model: Path, dataset: Path) -> Iterator[Any]:
    with serve_hub({"models/someone/tiny": tiny_model, "datasets/someone/pairs": dataset}) as server:
        yield server


@pytest.fixture
def environment(hub: Any, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "hub.yaml").write_text(recipe_text("someone/tiny", "someone/pairs"), encoding="utf-8")
    return {**os.environ, **hub_environment(hub, tmp_path / "hf")}


@pytest.fixture
def lock(command: Command, environment: dict[str, str], tmp_path: Path) -> dict[str, Any]:
    done = command("lock", "hub.yaml", env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "hub.lock.yaml\n"
    return yaml.safe_load((tmp_path / "hub.lock.yaml").read_text(encoding="utf-8"))


def _check(command: Command, environment: dict[str, str], *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    done = command("lock", "hub.yaml", "--check", "--json", *arguments, env=environment)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)["findings"]


def _close(hub: Any) -> None:
    hub.shutdown()
    hub.server_close()


def test_weights_are_locked_without_a_download(hub: Any, lock: dict[str, Any], tiny_model: Path) -> None:
    model, data = (lock["recipe"]["inputs"][key] for key in ("model.path", "data.train[0].path"))
    assert (model["source"], model["id"], model["commit"]) == ("hub", "someone/tiny", COMMIT)
    assert model["files"]["model.safetensors"]["size"] == (tiny_model / "model.safetensors").stat().st_size
    assert set(data["files"]) == {"train.jsonl"}
    assert data["commit"] == COMMIT
    assert not [request for request in hub.requests if request.endswith(".safetensors")]


def test_a_branch_that_has_moved_is_left_and_the_locked_commit_runs(
    hub: Any, lock: dict[str, Any], command: Command, environment: dict[str, str], tmp_path: Path
) -> None:
    hub.commit = LATER
    assert _check(command, environment) == (0, [])
    done = command("run", "hub.yaml", "--json", env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"]["revision"] == COMMIT
    resolved = next((tmp_path / "runs").glob("tiny/*/resolved.yaml")).read_text()
    assert resolved.count(COMMIT) == 2  # of the model and of the data
    hub.requests.clear()
    _close(hub)
    code, found = _check(command, {**environment, "HF_HUB_OFFLINE": "1"})
    assert (code, found) == (0, [])  # everything is in the cache


def test_a_cached_file_that_was_damaged(
    hub: Any, lock: dict[str, Any], command: Command, environment: dict[str, str], tmp_path: Path
) -> None:
    cached = next((tmp_path / "hf" / "hub").glob("models--*/snapshots/*/config.json")).resolve()
    cached.write_text(cached.read_text() + " ")
    code, found = _check(command, environment)
    assert code == 7
    assert [one["code"] for one in found] == ["S107"]
    assert "config.json of `model.path` has changed" in found[0]["what"]


def test_other_weights_under_the_same_commit(
    hub: Any, lock: dict[str, Any], command: Command, environment: dict[str, str], tmp_path: Path
) -> None:
    """A hub, or what stands between, that serves something else: found before the worker starts."""
    other = tmp_path / "other"
    other.mkdir()
    for path in hub.repositories["models/someone/tiny"].iterdir():
        (other / path.name).write_bytes(path.read_bytes() + (b"\0" if path.suffix == ".safetensors" else b""))
    hub.repositories["models/someone/tiny"] = other
    done = command("run", "hub.yaml", env=environment)
    assert done.returncode == 7
    assert "error[S107]: model.safetensors of `model.path` has changed" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_commit_that_is_gone(hub: Any, lock: dict[str, Any], command: Command, environment: dict[str, str]) -> None:
    hub.missing_revisions.add(COMMIT)
    code, found = _check(command, environment)
    assert code == 7
    assert {one["code"] for one in found} == {"S110"}
    assert f"someone/tiny has no revision {COMMIT}" in found[0]["what"]
    assert found[0]["where"]["line"] == 3


def test_a_gated_model(hub: Any, command: Command, environment: dict[str, str]) -> None:
    hub.gated.add("models/someone/tiny")
    done = command("lock", "hub.yaml", env=environment)
    assert done.returncode == 7
    assert "error[S111]: someone/tiny is gated" in done.stderr
    assert "hf auth login" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_network_and_not_in_the_cache(
    hub: Any, lock: dict[str, Any], command: Command, environment: dict[str, str]
) -> None:
    _close(hub)
    code, found = _check(command, {**environment, "HF_HUB_OFFLINE": "1"})
    assert code == 7
    assert found[0]["code"] == "S112"
    assert "model.safetensors of someone/tiny" in found[0]["what"]
    done = command("lock", "hub.yaml", env={**environment, "HF_HOME": "/nowhere", "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 7
    assert "error[S112]: someone/tiny is not in the cache, and the hub cannot be asked" in done.stderr


def test_a_repository_that_the_hub_does_not_know(command: Command, environment: dict[str, str]) -> None:
    done = command("lock", "hub.yaml", "--set", "model.path=someone/other", env=environment)
    assert done.returncode == 7
    assert "error[S110]: someone/other is not on the hub" in done.stderr
    assert "--> --set:1:12" in done.stderr
