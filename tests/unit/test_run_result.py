"""result.json: what is written is read again, and a file that cannot be read is refused with its reason."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from minimal import MINIMAL

from dpo_recipes.errors import RunError
from dpo_recipes.finished_run import open_run
from dpo_recipes.recipe.dump import dump_recipe
from dpo_recipes.recipe.validate import validate
from dpo_recipes.resume import file_lock
from dpo_recipes.run_dir import RunDirectory, write_json
from dpo_recipes.run_result import (
    AnswerWords,
    ModelInfo,
    ProcessInfo,
    RunResult,
    Sample,
    SavedModelComparison,
    TrainingFigures,
    read_result,
)

RESULT = RunResult(
    **dict(TrainingFigures(steps=3, num_train_rows=12, positions_saved=0.25)),
    status="finished",
    recipe="job",
    metrics={"train_loss": 0.5, "eval_loss": 0.4, "eval_absent": None},
    samples=[Sample(prompt="p", base="b", tuned="t", completion="c")],
    answer_words=AnswerWords(base=3.0, tuned=2.5, prompts=2),
    model=ModelInfo(base="gpt2", revision=None, added_tokens=[]),
    saved_model=SavedModelComparison(checked=False, reason="no memory"),
    saved="adapter",
)


def test_a_written_result_reads_as_the_same(tmp_path: Path) -> None:
    RESULT.write(tmp_path / "result.json")
    assert read_result(tmp_path / "result.json") == RESULT


def test_parts_that_are_short_leave_out_what_is_missing() -> None:
    plain = RESULT.to_json()
    assert plain["schema"] == 1
    assert plain["samples"] == [{"prompt": "p", "base": "b", "tuned": "t", "completion": "c"}]
    assert plain["saved_model"] == {"checked": False, "reason": "no memory"}
    assert plain["matmul_share"] is None


def test_the_file_keeps_the_names_of_schema_1() -> None:
    """Rows are called pairs in the file. Results of versions in which the fields had these names are read."""
    processes, saved = ProcessInfo(rows_per_step=8), SavedModelComparison(checked=True, rows=4)
    result = RESULT.with_changes(
        num_eval_rows=3, num_test_rows=2, rows_per_second=1.5, processes=processes, saved_model=saved
    )
    plain = result.to_json()
    named = {name: plain[name] for name in plain if "pair" in name or "row" in name}
    assert named == {"num_train_pairs": 12, "num_eval_pairs": 3, "num_test_pairs": 2, "pairs_per_second": 1.5}
    assert (plain["processes"]["pairs_per_step"], plain["saved_model"]) == (8, {"checked": True, "pairs": 4})
    assert RunResult.from_json(plain) == result
    assert ProcessInfo(**plain["processes"]).rows_per_step == 8


def test_numbers_that_are_not_finite_are_null_in_the_file_and_kept_in_memory(tmp_path: Path) -> None:
    result = RESULT.with_changes(metrics={"eval_loss": math.nan, "eval_x": math.inf}, wall_s=-math.inf)
    assert math.isnan(result.metrics["eval_loss"] or 0.0)
    result.write(tmp_path / "result.json")
    read = read_result(tmp_path / "result.json")
    assert (read.metrics, read.wall_s) == ({"eval_loss": None, "eval_x": None}, None)


def test_changes_are_validated_and_leave_the_rest() -> None:
    changed = RESULT.with_changes(status="failed")
    assert (changed.status, changed.model, changed.steps) == ("failed", RESULT.model, 3)
    with pytest.raises(ValueError, match="stepps"):
        RESULT.with_changes(stepps=3)


def test_fields_of_a_later_version_are_ignored(tmp_path: Path) -> None:
    plain = {**RESULT.to_json(), "novelty": 1, "model": {**RESULT.to_json()["model"], "novelty": 2}}
    write_json(tmp_path / "result.json", plain)
    read = read_result(tmp_path / "result.json")
    assert read.steps == 3
    assert read.to_json()["model"]["novelty"] == 2


def test_an_earlier_result_without_newer_fields_is_read() -> None:
    plain = {"schema": 1, "status": "finished", "recipe": "job", "steps": 3, "metrics": {"eval_loss": 0.5}}
    read = RunResult.from_json(plain)
    assert (read.saved_model, read.samples, read.model.base, read.metrics) == (None, [], None, {"eval_loss": 0.5})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "Expecting property name"),
        ('{"schema": 2, "status": "finished"}', "reads results of schema 1"),
        ("[]", "reads results of schema 1"),
        ('{"schema": 1, "recipe": "job"}', "`status`: Field required"),
        ('{"schema": 1, "status": "finished", "recipe": "job", "steps": "many"}', "`steps`: Input should be"),
        (
            '{"schema": 1, "status": "finished", "recipe": "job", "metrics": {"eval_loss": "low"}}',
            "`metrics.eval_loss`",
        ),
    ],
)
def test_a_file_that_is_no_result_is_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(RunError) as caught:
        read_result(path)
    (finding,) = caught.value.findings
    assert finding.code == "T642"
    assert why in str(caught.value)
    assert finding.fix


# open_run


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """The directory of a finished run, without a model."""
    directory = RunDirectory(tmp_path / "runs" / "job" / "20260101T000000Z-abcdef")
    directory.path.mkdir(parents=True)
    (tmp_path / "job.yaml").write_text(MINIMAL.replace("name: minimal", "name: job"), encoding="utf-8")
    directory.resolved_recipe.write_text(dump_recipe(validate(tmp_path / "job.yaml").recipe), encoding="utf-8")
    RESULT.write(directory.result)
    return directory


def refused(path: Path) -> Any:
    with pytest.raises(RunError) as caught:
        open_run(path)
    (finding,) = caught.value.findings
    assert finding.fix
    return finding


def test_a_finished_run_has_its_recipe_result_and_folders(run: RunDirectory, tmp_path: Path) -> None:
    run.metrics.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    finished = open_run(run.path)
    assert finished.recipe.name == "job"
    assert finished.objective.kind == "dpo"
    assert finished.result == RESULT
    assert finished.metric_rows() == [{"step": 1, "loss": 0.5}]
    moved = run.path.rename(tmp_path / "moved")
    assert open_run(moved).model_dir == moved / "model"


def test_the_directory_of_another_node_leads_to_the_shared_one(run: RunDirectory, tmp_path: Path) -> None:
    other = RunDirectory(tmp_path / "other")
    other.path.mkdir()
    write_json(other.part_of, {"run": str(run.path)})
    assert open_run(other.path).run == run


def test_a_directory_that_is_not_of_a_run_is_refused_and_a_near_one_named(run: RunDirectory, tmp_path: Path) -> None:
    (run.path / "model").mkdir()
    older = run.path.with_name("20250101T000000Z-abcdef")
    older.mkdir()
    (older / "resolved.yaml").touch()
    for near in (run.path / "model", run.path / "result.json", run.path.parent, run.path.parent.parent):
        finding = refused(near)
        assert (finding.code, finding.fix) == ("T640", f"did you mean {run.path}?")
    finding = refused(tmp_path / "nowhere")
    assert (finding.code, finding.why) == ("T640", "there is no such directory")
    assert "`dpo-recipe run` made" in finding.fix


def test_a_run_without_a_result_has_not_finished(run: RunDirectory) -> None:
    run.result.unlink()
    finding = refused(run.path)
    assert (finding.code, finding.why) == ("T641", "it has no result.json")
    with file_lock(run.lock):
        assert "still being executed" in refused(run.path).why


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("name: job", "name: [job", "this is not valid YAML"),
        ("kind: dpo", "kind: elsewhere", "elsewhere"),
        ("schema: 1", "schema: 9", ""),
    ],
)
def test_a_recipe_that_cannot_be_read_is_refused(run: RunDirectory, old: str, new: str, why: str) -> None:
    text = run.resolved_recipe.read_text()
    assert old in text
    run.resolved_recipe.write_text(text.replace(old, new))
    finding = refused(run.path)
    assert finding.code == "T642"
    assert "recipe" in finding.what
    assert why in finding.why
    assert finding.why


def test_the_schema_of_the_result_comes_before_the_recipe(run: RunDirectory) -> None:
    write_json(run.result, {**json.loads(run.result.read_text()), "schema": 2})
    assert "has the schema 2" in refused(run.path).what
