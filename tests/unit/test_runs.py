"""Lists runs with their states, and removes only those that nothing needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from synthetic_runs import begin_run, make_recipe, make_run
from typer.testing import CliRunner

from dpo_recipes import removal
from dpo_recipes.cli import app
from dpo_recipes.cli.runs_text import describe_age
from dpo_recipes.errors import RunError
from dpo_recipes.removal import PruneRules, choose_removable, remove_run
from dpo_recipes.resume import file_lock
from dpo_recipes.run_dir import RunDirectory
from dpo_recipes.runs import find_run, find_runs, list_runs, summarize

REWARD = {"kind": "reward"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPO_RECIPE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def write_events(run: RunDirectory, *events: dict[str, object]) -> None:
    run.events.write_text("".join(json.dumps({"time": 1.0, **event}) + "\n" for event in events))


def fail(run: RunDirectory, code: str, what: str = "it failed") -> None:
    write_events(run, {"event": "error", "findings": [{"code": code, "what": what}]})


def add_checkpoint(run: RunDirectory) -> None:
    (run.checkpoints / "checkpoint-5").mkdir(parents=True)


def removable(folder: Path, **rules: object) -> list[str]:
    chosen = choose_removable(list_runs(folder), folder, PruneRules(**rules))  # type: ignore[arg-type]
    return sorted(summary.run.path.name[-6:] for summary in chosen)


def reason(run: RunDirectory) -> str:
    """Why a run is kept, even if unfinished ones may be removed."""
    return "; ".join(why for why, _ in removal.reasons_to_keep(summarize(run), unfinished=True, best=True))


# --- the list ------------------------------------------------------------------------------------


def test_a_finished_run_has_its_metric_steps_and_size(folder: Path) -> None:
    run = make_run(folder, make_recipe(), metrics={"eval_loss": 0.25})
    (run.path / "model").mkdir()
    (run.path / "model" / "weights").write_bytes(bytes(1_000_000))
    os.link(run.path / "model" / "weights", run.path / "model" / "same")  # takes no further space
    summary = summarize(run)
    assert (summary.state, summary.recipe, summary.objective) == ("finished", "job", "dpo")
    assert summary.metric is not None
    assert (summary.metric.key, summary.value, summary.base_value) == ("loss", 0.25, 0.693)
    assert (summary.step, summary.num_steps) == (100, 100)
    assert 1_000_000 <= summary.size_bytes < 1_200_000
    assert summary.started == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_the_metric_is_that_of_the_objective(folder: Path) -> None:
    recipe = make_recipe(objective=REWARD)
    summary = summarize(make_run(folder, recipe, metrics={"eval_accuracy": 0.75}, base_metrics={"eval_accuracy": 0.5}))
    assert summary.metric is not None
    assert (summary.metric.key, summary.value, summary.base_value) == ("accuracy", 0.75, 0.5)


def test_an_unfinished_run_has_the_values_of_its_last_evaluation(folder: Path) -> None:
    run = begin_run(folder, make_recipe())
    assert summarize(run).state == "unfinished"
    assert (summarize(run).step, summarize(run).value, summarize(run).can_resume) == (None, None, False)
    rows = [{"step": 0, "eval_loss": 0.7}, {"step": 5, "loss": 0.6}]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_events(run, {"event": "step", "step": 7, "total": 20, "metrics": {}})
    add_checkpoint(run)
    summary = summarize(run)
    # The first evaluation is that of the base, which is no value of this run.
    assert (summary.step, summary.num_steps, summary.value, summary.base_value) == (7, 20, None, 0.7)
    assert summary.can_resume
    run.metrics.write_text(run.metrics.read_text() + json.dumps({"step": 6, "eval_loss": 0.5}) + "\n")
    assert (summarize(run).value, summarize(run).base_value) == (0.5, 0.7)


def test_a_failed_run_has_its_reason_and_an_interrupted_one_is_unfinished(folder: Path) -> None:
    run = begin_run(folder, make_recipe())
    fail(run, "T604", "the loss is NaN")
    assert (summarize(run).state, summarize(run).reason) == ("failed", "T604 the loss is NaN")
    fail(run, "I101", "the run was interrupted")
    assert (summarize(run).state, summarize(run).reason) == ("unfinished", "I101 the run was interrupted")
    write_events(run, {"event": "error", "findings": [], "bug": "KeyError('x')"})
    assert (summarize(run).state, summarize(run).reason) == ("failed", "a bug: KeyError('x')")


def test_a_run_whose_lock_another_process_holds_is_running(folder: Path) -> None:
    run = begin_run(folder, make_recipe())
    script = "import sys; from pathlib import Path; from dpo_recipes.resume import file_lock\n"
    script += "with file_lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(run.lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert summarize(run).state == "running"
        assert reason(run) == "it is still being executed"
        with pytest.raises(RunError, match="T615"):
            remove_run(run, folder)
        holder.communicate()
    assert summarize(run).state == "unfinished"
    assert run.resolved_recipe.exists()


def test_runs_that_cannot_be_read_are_listed(folder: Path) -> None:
    run = make_run(folder, make_recipe())
    run.resolved_recipe.write_text("{")
    summary = summarize(run)
    assert (summary.state, summary.recipe, summary.objective, summary.value) == ("finished", "", "", None)
    run.result.write_text('{"schema": 9}')
    assert "has the schema 9" in summarize(run).reason


def test_runs_are_found_below_jobs_and_not_in_their_own_folders(folder: Path) -> None:
    first = make_run(folder, make_recipe())
    make_run(first.path / "model", make_recipe("inner"))
    trial = RunDirectory(folder / "sweep" / "20260102T030405Z-aaaaaa" / "trials" / "001")
    trial.path.parent.mkdir(parents=True)
    make_run(folder, make_recipe("moved")).path.rename(trial.path)
    part = begin_run(folder, make_recipe("part"))
    part.part_of.write_text(json.dumps({"run": str(first.path)}))
    (folder / "link").symlink_to(first.path)
    (folder / "sweep" / "file").touch()
    assert [run.path for run in find_runs(folder)] == [first.path, trial.path]


def test_the_list_is_the_newest_first(folder: Path) -> None:
    for day, digits in ((1, "aaaaaa"), (3, "bbbbbb"), (2, "cccccc")):
        make_run(folder, make_recipe(), f"2026010{day}T000000Z", digits)
    assert [summary.run.path.name[-6:] for summary in list_runs(folder)] == ["bbbbbb", "cccccc", "aaaaaa"]


def test_an_age_has_one_unit() -> None:
    now = datetime(2026, 1, 10, tzinfo=UTC)
    for passed, text in (
        (timedelta(seconds=20), "0 min"),
        (timedelta(minutes=59), "59 min"),
        (timedelta(hours=47), "47 h"),
    ):
        assert describe_age(now - passed, now) == text
    assert describe_age(now - timedelta(days=9), now) == "9 days"


def test_hundreds_of_runs_are_listed_quickly(folder: Path) -> None:
    first = make_run(folder, make_recipe(), digits="000000").path
    before = time.time() - 60
    os.utime(first / "resolved.yaml", (before, before))  # what was just written is not remembered
    for number in range(1, 200):
        shutil.copytree(first, first.with_name(f"20260102T030405Z-{number:06}"))
    list_runs(folder)
    started = time.monotonic()
    assert len(list_runs(folder)) == 200
    assert time.monotonic() - started < 5  # 0.2 s on an idle machine


# --- names ---------------------------------------------------------------------------------------


def test_a_run_is_named_by_path_or_by_the_end_of_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(folder, make_recipe(), digits="aaaaaa")
    make_run(folder, make_recipe("other"), digits="bbbbbb")
    monkeypatch.chdir(run.path)
    for name in ("aaaaaa", run.path.name, f"job/{run.path.name}", str(run.path), "."):
        assert find_run(name, folder) == run
    for name in ("cccccc", "job", str(folder)):
        with pytest.raises(RunError, match="T640"):
            find_run(name, folder)


def test_a_name_of_several_runs_is_an_error_that_lists_them(folder: Path) -> None:
    for recipe in ("a", "b"):
        make_run(folder, make_recipe(recipe), digits="aaaaaa")
    with pytest.raises(RunError, match=r"2 runs [^\n]*\nwhy: a/20260102T030405Z-aaaaaa, b/20260102T030405Z-aaaaaa"):
        find_run("aaaaaa", folder)


# --- what is removed -----------------------------------------------------------------------------


def test_prune_keeps_the_newest_the_best_and_whatever_could_be_resumed(folder: Path) -> None:
    for day, digits, loss in ((1, "aaaaaa", 0.3), (2, "bbbbbb", 0.2), (3, "cccccc", 0.4), (4, "dddddd", None)):
        make_run(folder, make_recipe(), f"2026010{day}T000000Z", digits, metrics={"eval_loss": loss})
    make_run(folder, make_recipe("other"), digits="eeeeee")
    begin_run(folder, make_recipe(), digits="ffffff")
    failed = begin_run(folder, make_recipe(), digits="111111")
    fail(failed, "T604")
    resumable = begin_run(folder, make_recipe(), digits="222222")
    fail(resumable, "T602")
    add_checkpoint(resumable)
    assert removable(folder) == ["111111", "aaaaaa", "cccccc"]
    assert removable(folder, keep=2) == ["111111", "aaaaaa"]
    assert removable(folder, best=True) == ["111111", "aaaaaa", "bbbbbb", "cccccc"]
    assert removable(folder, keep=0) == ["111111", "aaaaaa", "cccccc", "dddddd"]
    assert removable(folder, unfinished=True) == ["111111", "222222", "aaaaaa", "cccccc", "ffffff"]
    assert removable(folder, older_than=timedelta(days=36_500)) == []


def test_the_best_run_is_the_one_with_the_highest_accuracy_where_higher_is_better(folder: Path) -> None:
    for day, digits, accuracy in ((1, "aaaaaa", 0.9), (2, "bbbbbb", 0.6), (3, "cccccc", 0.7)):
        recipe, metrics = make_recipe(objective=REWARD), {"eval_accuracy": accuracy}
        make_run(folder, recipe, f"2026010{day}T000000Z", digits, metrics=metrics)
    assert removable(folder) == ["bbbbbb"]


def test_only_runs_whose_metric_means_the_same_are_compared(folder: Path) -> None:
    """A loss of IPO near 0 is no better than one of DPO near 0.5, and neither is an accuracy than a loss."""
    ipo = {"kind": "dpo", "loss_type": "ipo"}
    for day, digits, objective, value in (
        (1, "aaaaaa", {"kind": "dpo"}, 0.4),
        (2, "bbbbbb", {"kind": "dpo"}, 0.5),
        (3, "cccccc", ipo, 0.02),
        (4, "dddddd", ipo, 0.01),
        (5, "eeeeee", REWARD, 0.7),
        (6, "ffffff", REWARD, 0.6),
        (7, "111111", {"kind": "kto"}, 0.3),
        (8, "222222", {"kind": "kto"}, 0.3),
    ):
        recipe = make_recipe(objective=objective)
        metrics = {"eval_accuracy" if objective == REWARD else "eval_loss": value}
        make_run(folder, recipe, f"2026010{day}T000000Z", digits, metrics=metrics)
    assert removable(folder, keep=0) == ["111111", "bbbbbb", "cccccc", "ffffff"]
    assert removable(folder, best=True) == ["111111", "aaaaaa", "bbbbbb", "cccccc", "dddddd", "eeeeee", "ffffff"]


def test_removing_the_last_run_of_a_recipe_removes_its_folder(folder: Path) -> None:
    first, second = make_run(folder, make_recipe(), digits="aaaaaa"), make_run(folder, make_recipe(), digits="bbbbbb")
    remove_run(first, folder)
    assert (first.path.exists(), second.path.exists()) == (False, True)
    remove_run(second, folder)
    assert (second.path.parent.exists(), folder.exists()) == (False, True)


def test_a_job_in_the_queue_keeps_its_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begin_run(folder, make_recipe())
    monkeypatch.setattr(removal, "has_job", lambda of: of == run)
    assert reason(run) == "a SLURM job for it waits in the queue"


# --- the command ---------------------------------------------------------------------------------


def call(*arguments: str, given: str | None = None) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["runs", *arguments], input=given)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def test_the_table(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    make_run(folder, make_recipe(), metrics={"eval_loss": 0.25}, digits="aaaaaa")
    fail(begin_run(folder, make_recipe("other"), "20250102T030405Z", "bbbbbb"), "T604", "the loss is NaN")
    code, text = call()
    lines = [line.split() for line in text.splitlines()]
    assert code == 0
    assert lines[0] == ["job"]
    assert lines[1][:6] == ["20260102T030405Z-aaaaaa", "finished", "dpo", "loss", "0.250", "100"]
    assert lines[3] == ["other"]
    assert lines[4][:4] == ["20250102T030405Z-bbbbbb", "failed", "dpo", "–"]
    assert lines[5] == ["T604", "the", "loss", "is", "NaN"]


def test_json_has_every_value(folder: Path) -> None:
    run = make_run(folder, make_recipe(), metrics={"eval_loss": 0.25})
    code, text = call("--output-dir", str(folder), "--json")
    (row,) = json.loads(text)
    assert code == 0
    assert row.pop("size_bytes") > 0
    assert row == {
        "path": str(run.path), "state": "finished", "recipe": "job", "objective": "dpo", "metric": "loss",
        "value": 0.25, "base_value": 0.693, "step": 100, "num_steps": 100, "started_at": "2026-01-02T03:04:05Z",
        "reason": None, "can_resume": False,
    }  # fmt: skip


def test_show_has_the_metrics_and_the_files(folder: Path) -> None:
    run = make_run(folder, make_recipe())
    run.report.touch()
    _, text = call("show", "0000aa", "--output-dir", str(folder))
    assert "state     finished\n" in text
    assert "held out  loss 0.500 (base 0.693), accuracy 80.0%, margin +1.000\n" in text
    assert f"report    {run.report}" in text
    plain = json.loads(call("show", "0000aa", "--output-dir", str(folder), "--json")[1])
    assert (plain["result"]["steps"], plain["state"]) == (100, "finished")


def test_show_of_a_run_that_cannot_be_read_says_so(folder: Path) -> None:
    run = make_run(folder, make_recipe())
    run.result.write_text('{"schema": 9}')
    code, text = call("show", str(run.path))
    assert code == 0
    assert "has the schema 9" in text


def test_rm_asks_for_a_flag_before_it_removes_an_unfinished_run(folder: Path) -> None:
    done, begun = make_run(folder, make_recipe(), digits="aaaaaa"), begin_run(folder, make_recipe(), digits="bbbbbb")
    place = ("--output-dir", str(folder))
    with pytest.raises(RunError, match="T643"):
        call("rm", "aaaaaa", "bbbbbb", "--yes", *place)
    assert done.path.exists()  # all are checked before one is removed
    with pytest.raises(Exception, match="U404"):
        call("rm", "aaaaaa", *place)
    assert done.path.exists()
    assert call("rm", "aaaaaa", "aaaaaa", "bbbbbb", "--unfinished", "--yes", *place)[0] == 0
    assert not done.path.exists()
    assert not begun.path.exists()


def test_rm_removes_only_after_a_yes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(folder, make_recipe())
    monkeypatch.setattr("dpo_recipes.cli.runs._is_terminal", lambda: True)
    assert call("rm", str(run.path), "--output-dir", str(folder), given="n\n")[0] == 0
    assert run.path.exists()
    assert call("rm", str(run.path), "--output-dir", str(folder), given="y\n")[0] == 0
    assert not run.path.exists()


def test_prune_says_what_it_removes(folder: Path) -> None:
    for day, digits in ((1, "aaaaaa"), (2, "bbbbbb"), (3, "cccccc")):
        make_run(folder, make_recipe(), f"2026010{day}T000000Z", digits, metrics={"eval_loss": 0.1 * day})
    code, text = call("prune", "--yes", "--output-dir", str(folder))
    assert code == 0
    assert "1 run, " in text
    assert sorted(path.name[-6:] for path in folder.glob("*/*")) == ["aaaaaa", "cccccc"]
    assert "nothing to remove" in call("prune", "--yes", "--output-dir", str(folder))[1]


def test_an_absent_folder_and_an_empty_one(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="T640"):
        call("--output-dir", str(folder))
    folder.mkdir()
    assert "there are no runs" in call("--output-dir", str(folder))[1]
    assert json.loads(call("--output-dir", str(folder), "--json")[1]) == []


def test_the_locks_of_a_removed_run_are_free(folder: Path) -> None:
    run = make_run(folder, make_recipe())
    with file_lock(run.command_lock), pytest.raises(RunError, match="T615"):
        remove_run(run, folder)
    assert run.result.exists()


def test_a_reproduction_that_was_ended_early_is_not_to_be_resumed(folder: Path) -> None:
    run = make_run(folder, make_recipe(), digits="00000a")
    run.result.unlink()
    run.comparison.write_text("{}")
    (summary,) = list_runs(folder)
    assert (summary.state, summary.reason) == ("finished", "it has done the first steps of another run again")
    assert removable(folder, keep=0, best=True) == ["00000a"]
