"""What the commands say about a chain: the run itself, `runs`, `report`, `cp`."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
from chains import CHAIN, FakeSteps
from typer.testing import CliRunner

from dpo_recipes.cli import app
from dpo_recipes.cli.chain_text import describe_chain, describe_event
from dpo_recipes.errors import RunError
from dpo_recipes.jobs.chain import FinishedChain
from dpo_recipes.jobs.step_run import runs_of
from dpo_recipes.jobs.steps.base import Figure
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.removal import PruneRules, choose_removable
from dpo_recipes.runs import find_job, list_runs

SUPERSEDED = "steps.dpo.training.seed=1"


@pytest.fixture
def fake(tmp_path: Path) -> FakeSteps:
    return FakeSteps(tmp_path)


@pytest.fixture
def finished(fake: FakeSteps) -> FinishedChain:
    """A chain that has finished, with a run of an earlier version."""
    fake.run(CHAIN, SUPERSEDED)
    return fake.run()


@pytest.fixture(autouse=True)
def _every_step_takes_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpo_recipes.cli.chain_text.format_duration", lambda seconds: "2 s")


def _call(*arguments: object, code: int = 0) -> str:
    ended = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(ended.exception, RunError):
        assert code == ended.exception.exit_code
        return str(ended.exception)
    assert ended.exit_code == code, ended.output
    return ended.output


def test_the_table_at_the_end(finished: FinishedChain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished.directory.path)
    sft, dpo = finished.result.steps
    assert list(describe_chain(finished.result, finished.directory)) == [
        "chain job: finished",
        "",
        "step  work                  time  held out",
        "sft   train: SFT            2 s   loss 0.500 (base 0.750), token accuracy 25.0%",
        "dpo   train: DPO (sigmoid)  2 s   loss 0.500 (base 0.750)",
        "",
        f"model         {sft.directory}/model",
        f"model         {dpo.directory}/model",
        "report        report.html",
    ]


def test_an_acronym_keeps_its_letters_in_a_sentence() -> None:
    assert Figure("kl", "KL to the base", 0.5, "+0.50").phrase == "KL to the base +0.50"
    assert Figure("rewards/accuracies", "Reward accuracy", 0.5, "50.0%").phrase == "reward accuracy 50.0%"


def test_what_is_said_on_the_way(fake: FakeSteps, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.run(CHAIN, SUPERSEDED)
    finished = fake.run()
    monkeypatch.chdir(finished.directory.path.parent)
    lines = [line for event in fake.events for line in describe_event(event)]
    assert lines == [
        f"chain     {finished.directory.path.name}",
        "          sft → dpo",
        "          done before, with the same inputs: sft",
        "\nstep      dpo, train: DPO (sigmoid)",
        "step      dpo: loss 0.500",
    ]


def test_a_failed_step_is_shown_with_its_error(tmp_path: Path) -> None:
    def made(recipe: Recipe) -> str:
        raise RunError.of("M504", "it broke", why="a test", fix="none")

    fake = FakeSteps(tmp_path, made)
    with pytest.raises(RunError):
        fake.run()
    lines = [line for event in fake.events for line in describe_event(event)]
    assert lines[-2].startswith("error[M504]: it broke")
    assert lines[-1] == "step      sft: failed"
    shown = _call("runs", "show", fake.folders[0])
    assert "sft   train: SFT            2 s   failed" in shown
    assert "dpo   train: DPO (sigmoid)  \N{EN DASH}     not run" in shown


def test_the_report_links_those_of_the_steps(finished: FinishedChain) -> None:
    job = finished.directory
    directory = job.path / str(finished.result.steps[1].directory)
    (directory / "report.html").write_text("the report of the step", encoding="utf-8")
    job.report.unlink()
    _call("report", job.path)
    page = job.report.read_text(encoding="utf-8")
    assert f'<a href="{finished.result.steps[1].directory}/report.html">' in page
    assert '<code>model.path</code> is what <a href="#sft">sft</a> made.' in page
    assert "All 2 steps have finished." in page
    assert page.count("Report of this step") == 1  # the other one has none
    other = job.path / "elsewhere.html"
    _call("report", job.path, "--output", other)
    assert other.read_text(encoding="utf-8") == page


def test_a_chain_stands_for_its_finished_runs_in_a_comparison(finished: FinishedChain) -> None:
    text = _call("report", finished.directory.path, "--format", "csv")
    assert "job-sft" in text
    assert "job-dpo" in text


def test_runs_lists_the_steps_and_shows_the_chain(finished: FinishedChain) -> None:
    folder = finished.directory.path.parent.parent
    assert {summary.recipe for summary in list_runs(folder)} == {"job-sft", "job-dpo"}
    assert "chain job: finished" in _call("runs", "show", finished.directory.path)
    plain = json.loads(
        _call("runs", "show", finished.directory.path.name.rpartition("-")[2], "--output-dir", folder, "--json")
    )
    assert plain == finished.result.to_json()
    finished.directory.result.unlink()
    assert "T641" in _call("runs", "show", finished.directory.path, code=6)
    assert "T641" in _call("report", finished.directory.path, code=6)


def test_prune_keeps_the_steps_of_the_chain(finished: FinishedChain) -> None:
    folder = finished.directory.path.parent.parent
    everything = PruneRules(keep=0, unfinished=True, best=True)
    (removable,) = choose_removable(list_runs(folder), folder, everything)
    kept = [finished.directory.path / str(step.directory) for step in finished.result.steps]
    assert removable.run.path not in kept
    finished.directory.result.unlink()
    assert choose_removable(list_runs(folder), folder, PruneRules(keep=0, best=True)) == []


def test_rm_removes_a_whole_chain_and_no_step_of_it(finished: FinishedChain) -> None:
    job = finished.directory.path
    step = job / str(finished.result.steps[0].directory)
    refused = _call("runs", "rm", step, "--yes", code=6)
    assert "it is a step of a chain, which would do it again" in refused
    assert find_job(job.name, job.parent.parent) == finished.directory
    _call("runs", "rm", job, "--yes", "--output-dir", job.parent.parent)
    assert not job.exists()


def test_a_shipped_chain_is_copied_with_the_recipes_of_its_steps(tmp_path: Path) -> None:
    _call("cp", "quickstart_chain", tmp_path / "mine")
    assert (tmp_path / "mine" / "quickstart.yaml").is_file()
    assert (tmp_path / "mine" / "data" / "everyday" / "train.jsonl").is_file()
    assert _call("validate", tmp_path / "mine" / "quickstart_chain.yaml").endswith("ok\n")


def test_runs_of_steps_can_be_sent_to_another_process(fake: FakeSteps, finished: FinishedChain) -> None:
    runs = runs_of(finished.directory, fake.validate(CHAIN).steps, 0.0)
    again = pickle.loads(pickle.dumps(runs))
    assert [run.name for run in again] == [run.name for run in runs]
    assert [run.state for run in again] == ["finished", "finished"]


def test_a_chain_that_was_moved_is_found_done(fake: FakeSteps, finished: FinishedChain) -> None:
    moved = finished.directory.path.with_name("20270101T000000Z-abcdef")
    shutil.move(finished.directory.path, moved)
    assert fake.run().directory.path == moved
    assert fake.executed == []
