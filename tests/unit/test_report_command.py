"""`dpo-recipe report`: which file it writes, and what it says about folders that are no finished runs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from report_time import make_runs
from synthetic_runs import begin_run, make_recipe, make_run
from typer.testing import CliRunner

from dpo_recipes.cli import app
from dpo_recipes.errors import RecipeError, RunError
from dpo_recipes.run_dir import RunDirectory


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


@pytest.fixture
def pair(folder: Path) -> list[RunDirectory]:
    return [
        make_run(folder, make_recipe(training={"num_epochs": number}), digits=f"00000{number}") for number in (1, 2)
    ]


def call(*arguments: str) -> tuple[str, str]:
    """stdout and stderr of the command."""
    done = CliRunner().invoke(app, ["report", *arguments])
    if done.exception:
        raise done.exception
    return done.stdout, done.stderr


def test_the_report_of_a_run_is_written_again(pair: list[RunDirectory]) -> None:
    assert call("000001")[0] == f"runs/job/{pair[0].path.name}/report.html\n"
    page = pair[0].report.read_text(encoding="utf-8")
    assert "Training run, DPO" in page
    assert "Plan and measurement" in page
    assert "2.00 GiB" in page


def test_the_report_of_a_run_in_another_file_leaves_the_run_as_it_is(pair: list[RunDirectory]) -> None:
    assert call("000001", "--output", "mine.html")[0] == "mine.html\n"
    assert "Training run, DPO" in Path("mine.html").read_text(encoding="utf-8")
    assert not pair[0].report.exists()


def test_several_runs_are_compared_and_the_verdict_is_told(pair: list[RunDirectory]) -> None:
    out, told = call("000001", str(pair[1].path), "000001")  # the same run counts once
    assert out == "comparison.html\n"
    assert "Comparison of runs" in Path("comparison.html").read_text(encoding="utf-8")
    assert told.startswith("#1 job 000001 is best by the held-out loss: 0.500, the same as #2 job 000002.")


def test_the_format_is_that_of_the_option_or_of_the_suffix(pair: list[RunDirectory]) -> None:
    assert call("000001", "000002", "--format", "md")[0].startswith("# Comparison of 2 runs\n")
    assert call("000001", "000002", "--format", "csv")[0].startswith("rank,run,objective,")
    call("000001", "000002", "--output", "table.csv")
    assert Path("table.csv").read_text(encoding="utf-8").startswith("rank,run,")
    call("000001", "--output", "one.md", "--metric", "rewards/margins")
    assert "held-out reward margin" in Path("one.md").read_text(encoding="utf-8")


def test_unfinished_runs_are_left_out_and_named(pair: list[RunDirectory], folder: Path) -> None:
    begun = begin_run(folder, make_recipe("begun"), digits="000003")
    out, told = call("000001", "000002", "000003", "--format", "csv")
    assert len(out.splitlines()) == 3
    assert f"left out: the run in {begun.path} is unfinished, it has no result.json\n" in told
    with pytest.raises(RunError, match="T641"):
        call("000003")


def test_all_folders_that_are_no_runs_are_reported_at_once(pair: list[RunDirectory], folder: Path) -> None:
    with pytest.raises(RunError) as caught:
        call("000001", "runs/job", "nothere")
    first, second = caught.value.findings
    assert (first.code, second.code) == ("T640", "T640")
    assert "a run directory has resolved.yaml, metrics.jsonl and, if finished, result.json" in (first.why or "")
    assert f"did you mean runs/job/{pair[1].path.name}?" == first.fix
    assert f"no run of that name below {folder}" in (second.why or "")


def test_a_file_that_cannot_be_written(pair: list[RunDirectory]) -> None:
    with pytest.raises(RecipeError, match="U402"):
        call("000001", "000002", "--output", "nothere/page.html")


def test_two_hundred_runs_are_compared_in_seconds_in_one_small_file(folder: Path) -> None:
    paths = make_runs(folder, 200)
    started = time.process_time()
    call(*map(str, paths))
    assert time.process_time() - started < 20  # 3 s where nothing else is running
    size = Path("comparison.html").stat().st_size
    assert size < 3_000_000
