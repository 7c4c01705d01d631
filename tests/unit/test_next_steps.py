"""When a run has finished, three commands that work say what can be done next."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
from synthetic_runs import make_recipe, make_run
from typer.testing import CliRunner

from dpo_recipes.cli import app
from dpo_recipes.cli.next_steps import describe_next_steps
from dpo_recipes.finished_run import open_run

AGAIN = ["dpo-recipe", "run", "my job.yaml", "--set", "training.num_epochs=2"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    return tmp_path / "runs"


def commands(folder: Path, stamp: str = "20260102T000000Z", digits: str = "0000bb") -> list[str]:
    run = make_run(folder, make_recipe(training={"seed": 7}), stamp, digits)
    lines = list(describe_next_steps(open_run(run.path), AGAIN))
    assert [line[:10] for line in lines] == ["next      ", " " * 10, " " * 10]
    assert all("   # " in line for line in lines)
    return [line[10:].split("   #")[0].strip() for line in lines]


def test_the_first_run_of_a_recipe_can_be_repeated_with_another_seed(folder: Path) -> None:
    look, again, listing = commands(folder)
    assert (look, listing) == ("dpo-recipe runs show 0000bb", "dpo-recipe runs")
    assert again == "dpo-recipe run 'my job.yaml' --set training.num_epochs=2 --set training.seed=6"


def test_a_later_run_can_be_compared_with_the_one_before(folder: Path) -> None:
    make_run(folder, make_recipe(), "20260101T000000Z", "0000aa")
    make_run(folder, make_recipe(), "20260103T000000Z", "0000cc")
    _, compare, _ = commands(folder)
    assert compare == "dpo-recipe report 0000bb 0000aa"


def test_the_commands_work(folder: Path) -> None:
    make_run(folder, make_recipe(), "20260101T000000Z", "0000aa")
    for command in commands(folder):
        done = CliRunner().invoke(app, shlex.split(command)[1:])
        assert done.exit_code == 0, (command, done.output)


def test_runs_elsewhere_are_named_by_their_paths(folder: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "else where", make_recipe(), "20260101T000000Z", "0000aa")
    look, compare, _ = commands(tmp_path / "else where")
    assert look == "dpo-recipe runs show 'else where/job/20260102T000000Z-0000bb'"
    assert shlex.split(compare)[3] == "else where/job/20260101T000000Z-0000aa"


def test_where_there_is_a_screen_the_report_is_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    look, *_ = commands(folder)
    assert look == "python -m webbrowser runs/job/20260102T000000Z-0000bb/report.html"
