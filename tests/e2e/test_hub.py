"""Models and datasets from a server that speaks the hub's protocol: taken once, pinned, then used without a network."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import COMMIT, hub_environment, serve_hub
from tiny import recipe_text, write_pairs

Command = Callable[..., Any]
SPLITS = {"train": 30, "test": 5}
CARD = "---\nconfigs:\n- config_name: default\n  data_files:\n" + "".join(
    f"  - split: {name}\n    path: {name}.jsonl\n" for name in SPLITS
)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "dataset"
    folder.mkdir()
    for name, count in SPLITS.items():
        write_pairs(folder / f"{name}.jsonl", count)
    (folder / "README.md").write_text(CARD + "---\n")
    return folder


@pytest.fixture
def hub(tiny_model: Path, dataset: Path) -> Iterator[Any]:
    with serve_hub({"models/someone/tiny": tiny_model, "datasets/someone/pairs": dataset}) as server:
        yield server


@pytest.fixture
def environment(hub: Any, tmp_path: Path) -> dict[str, str]:
    return {**os.environ, **hub_environment(hub, tmp_path / "hf")}


def _write(tmp_path: Path, model: str, data: str, extra: str = "") -> None:
    (tmp_path / "hub.yaml").write_text(recipe_text(model, data, extra), encoding="utf-8")


def test_a_hub_model_is_downloaded_once_and_pinned(
    command: Command, hub: Any, environment: dict[str, str], tmp_path: Path
) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    _write(tmp_path, "someone/tiny", "pairs.jsonl")
    first = command("run", "hub.yaml", "--json", env=environment)
    assert first.returncode == 0, first.stderr
    result = json.loads(first.stdout)
    assert result["model"]["revision"] == COMMIT
    assert "base_model: someone/tiny" in (Path(result["model_dir"]) / "README.md").read_text()
    hub.shutdown()
    hub.server_close()
    second = command("run", "hub.yaml", "--json", env=environment)
    assert second.returncode == 0, second.stderr
    assert json.loads(second.stdout)["model"]["revision"] == COMMIT
    assert f"http://127.0.0.1:{hub.server_address[1]} does not answer" in second.stderr


def test_a_hub_model_is_evaluated_on_a_hub_dataset(
    command: Command, hub: Any, environment: dict[str, str], tmp_path: Path
) -> None:
    """The second time, everything comes from the cache, whose key has the commit."""
    options = ["--data", "someone/pairs", "--limit", "3", "--max-new-tokens", "4", "--json"]
    first = command("evaluate", "someone/tiny", *options, env=environment)
    assert first.returncode == 0, first.stderr
    result = json.loads(first.stdout)
    assert (result["num_prompts"], result["models"][0]["name"]) == (3, "someone/tiny")
    again = command("evaluate", "someone/tiny", *options, env=environment)
    assert json.loads(again.stdout)["models"] == result["models"]
    assert "loading someone/tiny" in first.stderr
    assert "loading someone/tiny" not in again.stderr
    unknown = command("evaluate", "someone/other", *options, env=environment)
    assert unknown.returncode == 6
    assert "error[M509]" in unknown.stderr


def test_a_model_that_the_hub_does_not_know(command: Command, environment: dict[str, str], tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    _write(tmp_path, "someone/other", "pairs.jsonl")
    done = command("run", "hub.yaml", env=environment)
    assert done.returncode == 6
    assert "error[M509]" in done.stderr
    assert "Traceback" not in done.stderr


def _data(command: Command, environment: dict[str, str], *overrides: str) -> dict[str, Any]:
    flags = [flag for override in overrides for flag in ("--set", override)]
    done = command("data", "hub.yaml", "--json", *flags, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["splits"]


def test_a_hub_dataset_with_a_slice_and_its_own_test_split(
    command: Command, hub: Any, environment: dict[str, str], tiny_model: Path, tmp_path: Path
) -> None:
    _write(tmp_path, str(tiny_model), "someone/pairs")
    splits = _data(command, environment, "data.train[0].split=train[:20]", "data.eval={split: test}")
    assert {name: split["rows_kept"] for name, split in splits.items()} == {"train": 20, "eval": 5}
    hub.shutdown()
    hub.server_close()
    offline = {**environment, "HF_HUB_OFFLINE": "1"}
    assert _data(command, offline, "data.train[0].split=train[:20]", "data.eval={split: test}") == splits


def test_a_streamed_dataset_is_read_as_far_as_needed(
    command: Command, hub: Any, environment: dict[str, str], tiny_model: Path, tmp_path: Path
) -> None:
    _write(tmp_path, str(tiny_model), "someone/pairs")
    splits = _data(
        command, environment, "data.train[0].streaming=true", "data.train[0].limit=8", "data.eval={count: 2}"
    )
    assert {name: split["rows_kept"] for name, split in splits.items()} == {"train": 6, "eval": 2}
    assert not [path for path in hub.requests if path.endswith("test.jsonl")]


def test_a_dataset_that_the_hub_does_not_know(
    command: Command, environment: dict[str, str], tiny_model: Path, tmp_path: Path
) -> None:
    _write(tmp_path, str(tiny_model), "someone/else")
    done = command("data", "hub.yaml", env=environment)
    assert done.returncode == 4
    assert "error[D410]: cannot load the dataset someone/else" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_behind_an_address_is_fetched_once_and_again_when_it_changes(
    command: Command, hub: Any, environment: dict[str, str], tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    path = "datasets/someone/pairs/resolve/main/train.jsonl"
    _write(tmp_path, str(tiny_model), f"http://127.0.0.1:{hub.server_address[1]}/{path}")

    def rows_kept() -> int:
        hub.requests.clear()
        return sum(split["rows_kept"] for split in _data(command, environment).values())

    assert rows_kept() == 30
    asked_first = len(hub.requests)
    assert rows_kept() == 30
    assert len(hub.requests) < asked_first  # its version was asked for, and nothing more
    write_pairs(dataset / "train.jsonl", 40)
    assert rows_kept() == 40


def test_a_revision_that_is_missing(command: Command, hub: Any, environment: dict[str, str], tmp_path: Path) -> None:
    hub.missing_revisions.add("v9")
    write_pairs(tmp_path / "pairs.jsonl")
    _write(tmp_path, "someone/tiny", "pairs.jsonl")
    planned = command("plan", "hub.yaml", "--set", "model.revision=v9", env=environment)
    assert planned.returncode != 0
    assert "error[M509]" in planned.stderr
    assert "correct `model.revision`" in planned.stderr
