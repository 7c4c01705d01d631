"""The report of a sweep compares its trials, and `runs` keeps what a sweep needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from synthetic_runs import make_recipe, make_run
from typer.testing import CliRunner

from dpo_recipes.cli import app
from dpo_recipes.errors import RecipeError, RunError
from dpo_recipes.jobs.directory import SweepDirectory
from dpo_recipes.jobs.sweep_comparison import compare_sweep
from dpo_recipes.jobs.sweep_result import SweepResult
from dpo_recipes.recipe.dump import dump_recipe
from dpo_recipes.removal import PruneRules, choose_removable, reasons_to_keep
from dpo_recipes.run_dir import RunDirectory
from dpo_recipes.runs import find_job, list_runs, summarize

RATES = (1e-5, 2e-5, 3e-5)
LOSSES = (0.5, 0.3, 0.4)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPO_RECIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def make_sweep(folder: Path, *, ended: bool = True, **sweep: Any) -> SweepDirectory:
    """A sweep of four trials, of which the last one ran out of memory."""
    grid = {"training.learning_rate": [*RATES, 4e-5]}
    made = SweepDirectory(folder / "grid" / "20260105T000000Z-abcdef")
    made.runs.mkdir(parents=True)
    made.resolved_recipe.write_text(dump_recipe(make_recipe("grid", sweep={"grid": grid, **sweep})), encoding="utf-8")
    for number, (rate, loss) in enumerate(zip(RATES, LOSSES, strict=True), 1):
        recipe = make_recipe(f"grid-00{number}", training={"learning_rate": rate})
        metrics = {"eval_loss": loss, "eval_rewards/margins": loss * 2}
        run = make_run(folder / "elsewhere", recipe, metrics=metrics)
        run.path.rename(made.runs / f"00{number}")
    if ended:
        result_of(made).write(made.result)
    return made


def result_of(sweep: SweepDirectory) -> SweepResult:
    def trial(number: int, rate: float, **run: Any) -> dict[str, Any]:
        run = {"directory": f"trials/00{number}", "seed": 42, **run}
        values = {"training.learning_rate": rate}
        return {"number": number, "values": values, "state": run["state"], "value": run.get("value"), "runs": [run]}

    trials = [
        trial(n, rate, state="finished", value=loss)
        for n, (rate, loss) in enumerate(zip(RATES, LOSSES, strict=True), 1)
    ]
    trials.append(trial(4, 4e-5, state="out_of_memory", code="T603", reason="the device ran out of memory"))
    return SweepResult.model_validate(
        {
            "schema": 1, "status": "finished", "recipe": "grid", "objective": "dpo", "metric": "loss",
            "direction": "minimize", "trials": trials, "best": {"trial": 2, "run": "trials/002"}, "wall_s": 300.0,
            "started_at": "2026-01-05T00:00:00Z", "finished_at": "2026-01-05T01:00:00Z",
        }
    )  # fmt: skip


def call(*arguments: str) -> tuple[str, str]:
    done = CliRunner().invoke(app, arguments)
    if done.exception:
        raise done.exception
    return done.stdout, done.stderr


def test_the_report_of_a_sweep_has_its_trials_by_its_metric(folder: Path) -> None:
    sweep = make_sweep(folder)
    out, told = call("report", "abcdef")
    assert out == "runs/grid/20260105T000000Z-abcdef/report.html\n"
    assert told.startswith("#1 grid-002 is best by the held-out loss: 0.300, 0.100 below #2 grid-003.")
    page = (sweep.path / "report.html").read_text(encoding="utf-8")
    assert "<h1>grid</h1>" in page
    assert "T603 the device ran out of memory" in page
    comparison = compare_sweep(sweep)
    assert comparison.settings == ("training.learning_rate",)
    assert comparison.without_result is not None
    assert comparison.without_result.rows == [
        ["4", "training.learning_rate 4e-05", "42", "out of memory", "T603 the device ran out of memory"]
    ]


@pytest.mark.parametrize("name", ["runs/grid/20260105T000000Z-abcdef", "grid/20260105T000000Z-abcdef", "abcdef"])
def test_a_sweep_is_named_like_a_run(folder: Path, name: str) -> None:
    sweep = make_sweep(folder)
    assert find_job(name, folder) == sweep
    assert find_job("abcde", folder) is None
    assert find_job("*", folder) is None


def test_the_metric_and_the_direction_are_those_of_the_sweep(folder: Path) -> None:
    sweep = make_sweep(folder, metric="rewards/margins", direction="minimize")
    best = compare_sweep(sweep).best
    assert best is not None
    assert (best.label, best.value) == ("grid-002", 0.6)
    assert compare_sweep(sweep, "rewards/margins").configurations[0].label == "grid-001"
    with pytest.raises(RecipeError, match="U406"):
        compare_sweep(sweep, "nothing")


def test_an_unfinished_sweep_is_compared_as_far_as_it_is(folder: Path) -> None:
    comparison = compare_sweep(make_sweep(folder, ended=False))
    assert comparison.cautions[0] == "The sweep is unfinished: 3 of its 4 runs have a result."
    assert comparison.without_result is None


def test_a_sweep_that_only_lacks_its_own_result_is_not_called_unfinished(folder: Path) -> None:
    assert compare_sweep(make_sweep(folder, ended=False, max_trials=3)).cautions == ()


def test_a_sweep_without_a_result_is_an_error(folder: Path) -> None:
    sweep = make_sweep(folder, ended=False)
    for path in sweep.runs.glob("*/result.json"):
        path.unlink()
    with pytest.raises(RunError, match="T641"):
        call("report", "abcdef")


def test_a_sweep_can_be_compared_with_a_run(folder: Path) -> None:
    make_sweep(folder)
    make_run(folder, make_recipe("single"), digits="123456")
    assert len(call("report", "abcdef", "123456", "--format", "csv")[0].splitlines()) == 5


def test_the_best_run_of_a_sweep_and_trials_of_an_unfinished_one_are_kept(folder: Path) -> None:
    sweep = make_sweep(folder)

    def reasons(number: int, *, unfinished: bool = False, best: bool = False) -> list[str]:
        summary = summarize(RunDirectory(sweep.runs / f"00{number}"))
        return [fix for _, fix in reasons_to_keep(summary, unfinished=unfinished, best=best)]

    assert (reasons(1), reasons(2), reasons(2, best=True)) == ([], ["add `--best`"], [])
    sweep.result.unlink()
    assert (reasons(1), reasons(1, unfinished=True)) == (["add `--unfinished`"], [])


def test_prune_keeps_the_best_trial(folder: Path) -> None:
    make_sweep(folder)
    chosen = choose_removable(list_runs(folder), folder, PruneRules(keep=0))
    assert sorted(summary.run.path.name for summary in chosen) == ["001", "003"]


def test_a_sweep_is_removed_as_a_whole(folder: Path) -> None:
    sweep = make_sweep(folder)
    with pytest.raises(RunError, match="it is the best run of its sweep"):
        call("runs", "rm", "abcdef", "--yes")
    assert sweep.result.exists()
    call("runs", "rm", "abcdef", "--best", "--yes")
    assert not (folder / "grid").exists()
