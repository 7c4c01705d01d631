"""`dpo-recipe lock` and `run` with a lock, as a person or CI meets them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tiny import recipe_text, write_pairs
from typer.testing import CliRunner, Result

import dpo_recipes.cli.run as run_module
from dpo_recipes.cli import app
from dpo_recipes.errors import DpoRecipeError, SharingError
from dpo_recipes.share import lock as lock_module
from dpo_recipes.share.hub_files import hub_errors
from dpo_recipes.share.locked_job import update_lock
from dpo_recipes.shipped import recipe_paths

DOCS = Path(__file__).resolve().parents[2] / "docs"
Started = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(b"weights")
    write_pairs(tmp_path / "pairs.jsonl")
    path = tmp_path / "mine.yaml"
    path.write_text(recipe_text("model", "pairs.jsonl"), encoding="utf-8")
    return path


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """The recipes that a run would have started with."""
    found: Started = []

    def run_recipe(validated: Any, *_: object, **__: object) -> None:
        found.append(validated.recipe.model_dump())

    monkeypatch.setattr(run_module, "run_recipe", run_recipe)
    return found


def _call(*arguments: str) -> Result:
    """The result of a command; an error of ours becomes its text and exit code, as `main` does it."""
    done = CliRunner().invoke(app, list(arguments))
    if isinstance(done.exception, DpoRecipeError):
        done.exit_code = done.exception.exit_code
        done.stderr_bytes = (done.stderr + str(done.exception)).encode()
    elif done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_the_path_is_on_stdout_and_the_rest_on_stderr() -> None:
    done = _call("lock", "mine.yaml")
    assert (done.exit_code, done.stdout) == (0, "mine.lock.yaml\n")
    assert "locked    model.path: 2 files, 30 bytes" in done.stderr
    assert "locked    18 rows of `train`" in done.stderr


def test_json_is_the_lock() -> None:
    lock = json.loads(_call("lock", "mine.yaml", "--json").stdout)
    assert lock["recipe"]["rows"]["train"]["rows"] == 18


def test_a_check_names_every_difference_and_ends_with_7() -> None:
    assert _call("lock", "mine.yaml", "--check").exit_code == 7
    _call("lock", "mine.yaml")
    same = _call("lock", "mine.yaml", "--check")
    assert (same.exit_code, same.stdout) == (0, "mine.yaml: as locked\n")
    write_pairs(Path("pairs.jsonl"), 30)
    other = _call("lock", "mine.yaml", "--check", "--set", "training.seed=1")
    assert (other.exit_code, other.stdout) == (7, "mine.yaml: differs from its lock\n")
    assert "error[S106]" in other.stderr
    assert "error[S107]" in other.stderr
    plain = json.loads(_call("lock", "mine.yaml", "--check", "--json").stdout)
    assert plain["equal"] is False
    assert [one["code"] for one in plain["findings"]] == ["S107", "S108", "S108"]


def test_the_error_in_the_documents_is_the_one_that_a_person_sees(started: Started) -> None:
    _call("lock", "mine.yaml")
    write_pairs(Path("pairs.jsonl"), 30)
    seen = _call("run", "mine.yaml").stderr
    block = re.search(r"\$ dpo-recipe run mine.yaml\n(error\[S107\].*?)```", (DOCS / "sharing.md").read_text(), re.S)
    assert block is not None
    assert block[1].strip() in seen
    assert started == []


def test_run_uses_the_lock_beside_the_recipe(started: Started) -> None:
    _call("lock", "mine.yaml")
    done = _call("run", "mine.yaml")
    assert done.exit_code == 0
    assert "locked    as in mine.lock.yaml" in done.stderr
    assert len(started) == 1


def test_a_changed_value_runs_only_without_the_lock_or_with_a_new_one(started: Started) -> None:
    _call("lock", "mine.yaml")
    refused = _call("run", "mine.yaml", "--set", "training.seed=7")
    assert refused.exit_code == 7
    assert started == []
    assert _call("run", "mine.yaml", "--set", "training.seed=7", "--lock", "off").exit_code == 0
    assert _call("run", "mine.yaml", "--set", "training.seed=7", "--update-lock").exit_code == 0
    assert _call("run", "mine.yaml", "--set", "training.seed=7").exit_code == 0
    assert [one["training"]["seed"] for one in started] == [7, 7, 7]


def test_other_packages_run_with_a_warning_if_only_inputs_must_be_equal(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    _call("lock", "mine.yaml")
    monkeypatch.setattr(lock_module, "version", lambda name: "9.9")
    assert _call("run", "mine.yaml").exit_code == 7
    done = _call("run", "mine.yaml", "--lock", "inputs")
    assert done.exit_code == 0
    assert "warning[S114]: packages have other versions than in the lock" in done.stderr
    assert len(started) == 1


def test_without_a_lock_nothing_changes(started: Started) -> None:
    done = _call("run", "mine.yaml", "--lock", "strict")
    assert done.exit_code == 0
    assert "locked" not in done.stderr


def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("dpo_recipes.share.lock_file.write_text_atomically", refuse)
    done = _call("lock", "mine.yaml")
    assert done.exit_code == 7
    assert "error[S104]: cannot write the lock" in done.stderr


def test_a_recipe_of_the_installed_package_is_copied_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = Path(lock_module.__file__).parents[1] / "_shipped" / "recipes"
    monkeypatch.setattr(lock_module, "recipes_folder", lambda: folder)
    with pytest.raises(SharingError, match="dpo-recipe cp quickstart"):
        update_lock(folder / "quickstart.yaml", None, lambda *_: None)  # type: ignore[arg-type]


def test_a_lock_is_no_shipped_recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("dpo_recipes.shipped.recipes_folder", lambda: tmp_path)
    _call("lock", "mine.yaml")
    assert list(recipe_paths()) == ["mine"]


def test_a_lock_given_as_a_recipe_is_recognized() -> None:
    _call("lock", "mine.yaml")
    done = _call("validate", "mine.lock.yaml")
    assert done.exit_code == 7
    assert "error[S117]: mine.lock.yaml is a lock" in done.stderr
    assert "give the recipe: mine.yaml" in done.stderr


def test_an_answer_of_the_hub_that_nobody_expects() -> None:
    with pytest.raises(SharingError, match="the hub did not describe a/b") as caught, hub_errors("a/b", None):
        raise ValueError("<html>")
    assert caught.value.findings[0].code == "S112"
