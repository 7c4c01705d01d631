"""The run directory: new each time, refused early, and its files whole or absent."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dpo_recipes.errors import RunError
from dpo_recipes.run_dir import (
    MIN_FREE_BYTES,
    create_run_directory,
    find_output_dir,
    follow_umask,
    write_json,
    write_text_atomically,
)


def _code(output_dir: Path) -> str:
    with pytest.raises(RunError) as caught:
        create_run_directory(output_dir, "job")
    assert str(output_dir) in caught.value.findings[0].what
    return caught.value.findings[0].code


def test_two_runs_of_one_recipe_get_folders_of_their_own(tmp_path: Path) -> None:
    first, second = (create_run_directory(tmp_path / "runs", "job").path for _ in range(2))
    assert first != second
    assert first.parent == second.parent == tmp_path / "runs" / "job"
    assert first.is_dir()
    assert not list(first.iterdir())


def test_an_output_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("mine")
    assert _code(tmp_path / "runs") == "T601"
    assert (tmp_path / "runs").read_text() == "mine"


def test_links_in_a_circle_and_homes_of_nobody_are_no_folders(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for name in (str(tmp_path / "loop" / "runs"), "~nobody-of-this-name/runs"):
        with pytest.raises(RunError, match="T601"):
            create_run_directory(find_output_dir(name), "tiny")
    assert find_output_dir(str(tmp_path / "new")) == (tmp_path / "new").resolve()


def test_a_full_disk_is_refused_and_nothing_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=MIN_FREE_BYTES - 1))
    assert _code(tmp_path) == "T602"
    assert not list((tmp_path / "job").iterdir())


def test_just_enough_space_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=MIN_FREE_BYTES))
    assert create_run_directory(tmp_path, "job").path.is_dir()


def test_a_text_is_written_as_utf_8_with_its_line_ends(tmp_path: Path) -> None:
    write_text_atomically(tmp_path / "a.txt", "naïve\n模型\n")
    assert (tmp_path / "a.txt").read_bytes() == "naïve\n模型\n".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_text_atomically(path, "new " * 100_000 + "\ud800")
    assert path.read_text() == "old"


def test_a_first_write_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        write_text_atomically(tmp_path / "a.txt", "new " * 100_000 + "\ud800")
    assert not (tmp_path / "a.txt").exists()


def test_a_file_gets_its_name_only_after_its_content_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "a.txt", []
    monkeypatch.setattr("os.fsync", lambda _: seen.append((path.exists(), (tmp_path / "a.txt.partial").read_text())))
    write_text_atomically(path, "whole")
    assert seen == [(False, "whole")]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")], {"a": float("nan")}, {1, 2}])
def test_what_is_no_json_is_refused_and_the_old_file_stays(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises((ValueError, TypeError)):
        write_json(path, {"value": value})
    assert json.loads(path.read_text()) == {"old": 1}


def test_json_reads_back(tmp_path: Path) -> None:
    data = {"text": "模型\n", "number": 5e-6, "none": None}
    write_json(tmp_path / "a.json", data)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == data


@pytest.fixture(params=[0o022, 0o027, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_files_get_the_mode_that_the_umask_gives_new_ones(tmp_path: Path, umask: int) -> None:
    folder = tmp_path / "model"
    (folder / "deeper").mkdir(parents=True)
    private, script = folder / "deeper" / "model.safetensors", folder / "run.sh"
    for path, mode in ((private, 0o600), (script, 0o700)):
        path.touch()
        path.chmod(mode)
    (folder / "gone").symlink_to(tmp_path / "nothing")
    follow_umask(folder)
    write_json(folder / "result.json", {})
    expected = 0o666 & ~umask
    assert [path.stat().st_mode & 0o777 for path in (private, folder / "result.json")] == [expected, expected]
    assert script.stat().st_mode & 0o777 == expected | 0o700
    assert sorted(path.name for path in folder.iterdir()) == ["deeper", "gone", "result.json", "run.sh"]
