"""`dpo-recipe reproduce`: real runs that are done again."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import recipe_text, save_tiny_model, write_pairs

from dpo_recipes.run_dir import RunDirectory, read_json_lines
from dpo_recipes.run_inputs import RunInputs

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of three steps in one epoch."""
    folder = tmp_path_factory.mktemp("reproduce")
    save_tiny_model(folder / "model")
    write_pairs(folder / "pairs.jsonl")
    (folder / "tiny.yaml").write_text(recipe_text("model", "pairs.jsonl"), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def call(folder: Path) -> Command:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DPO_RECIPE_CACHE", str(folder / "cache"))
            program = Path(sys.executable).with_name("dpo-recipe")
            return subprocess.run(
                [str(program), *arguments], cwd=folder, capture_output=True, text=True, timeout=300,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def run(folder: Path, call: Command) -> RunDirectory:
    done = call("run", "tiny.yaml", "--json")
    assert done.returncode == 0, done.stderr
    return RunDirectory(next((folder / "runs" / "tiny").iterdir()))


@pytest.fixture
def copy(folder: Path, run: RunDirectory) -> Iterator[RunDirectory]:
    """A copy of the run, which a test may change."""
    path = folder / "runs" / "tiny" / "20200101T000000Z-c0ffee"
    shutil.copytree(run.path, path)
    yield RunDirectory(path)
    shutil.rmtree(path)


def _parts(done: subprocess.CompletedProcess[str]) -> tuple[dict[str, Any], dict[str, str]]:
    found = json.loads(done.stdout)
    return found, {part["name"]: part["state"] for part in found["parts"]}


def test_a_run_records_its_inputs(run: RunDirectory) -> None:
    inputs = RunInputs.read(run.inputs)
    assert inputs is not None
    assert {name: rows.rows for name, rows in inputs.rows.items()} == {"train": 18, "eval": 6}
    assert (inputs.computation.device, inputs.computation.dtype) == ("cpu", "float32")
    assert set(inputs.reference) == {"train", "eval"}
    assert all(value < 0 for values in inputs.reference["train"].first for value in values)


def test_the_same_machine_gives_the_same_bits(folder: Path, run: RunDirectory, call: Command) -> None:
    entries = {path.name for path in (folder / "cache" / "reference").iterdir()}
    done = call("reproduce", run.path.name, "--json")
    assert done.returncode == 0, done.stderr
    found, states = _parts(done)
    assert found["verdict"] == "equal"
    assert set(states.values()) == {"equal"}
    assert {"rows of train", "tokenizer", "base", "reference on train", "losses of the first epoch", "final metrics",
            "saved weights"} <= set(states)  # fmt: skip
    again = RunDirectory(Path(found["again"]))
    losses = [[row["loss"] for row in read_json_lines(each.metrics) if "loss" in row] for each in (run, again)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert len(losses[0]) == 3
    assert again.path.is_relative_to(folder / "runs" / "reproductions" / "tiny")
    assert "reference log-probabilities" in done.stderr
    assert {path.name for path in (folder / "cache" / "reference").iterdir() if path.suffix != ".lock"} == {
        name for name in entries if not name.endswith(".lock")
    }, "the reference was computed anew, and the cache has no entry for it"


def test_data_that_have_changed_end_it_before_the_first_step(folder: Path, copy: RunDirectory, call: Command) -> None:
    write_pairs(folder / "pairs.jsonl", 30)
    try:
        done = call("reproduce", "c0ffee")
    finally:
        write_pairs(folder / "pairs.jsonl")
    assert done.returncode == 7, done.stderr
    assert "verdict   different" in done.stdout
    assert "first     rows of train" in done.stdout
    assert "cause     the data have changed" in done.stdout
    assert "18 rows and 22 rows" in done.stdout
    again = max((folder / "runs" / "reproductions" / "tiny").iterdir())
    assert not [row for row in read_json_lines(RunDirectory(again).metrics) if "loss" in row]


def test_only_the_first_steps_of_a_run_whose_values_were_changed(copy: RunDirectory, call: Command) -> None:
    """A forged loss at step 2; step 3 is not looked at."""
    rows = read_json_lines(copy.metrics)
    for row in rows:
        if row["step"] == 2 and "loss" in row:
            row["loss"] += 1e-3
    copy.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = call("reproduce", str(copy.path), "--steps", "2", "--json")
    assert done.returncode == 7, done.stderr
    found, states = _parts(done)
    assert found["first_difference"]["part"] == "losses of the first epoch"
    assert found["first_difference"]["at"].startswith("step 2: ")
    assert "nothing that a run records differs" in found["cause"]
    assert "final metrics" not in states


@pytest.mark.slow
def test_an_edited_seed_is_named(copy: RunDirectory, call: Command) -> None:
    text = copy.resolved_recipe.read_text()
    copy.resolved_recipe.write_text(text.replace("seed: 42", "seed: 43"))
    done = call("reproduce", str(copy.path), "--json")
    assert done.returncode == 7, done.stderr
    found, _ = _parts(done)
    assert found["cause"] == "resolved.yaml was changed after the run: settings or a seed"


def test_what_is_no_finished_run(folder: Path, copy: RunDirectory, call: Command) -> None:
    nothing = call("reproduce", "nothing")
    assert (nothing.returncode, "error[T640]" in nothing.stderr) == (6, True)
    copy.result.unlink()
    unfinished = call("reproduce", str(copy.path))
    assert (unfinished.returncode, "error[T641]" in unfinished.stderr) == (6, True)


def test_a_model_that_is_gone(folder: Path, copy: RunDirectory, call: Command) -> None:
    (folder / "model").rename(folder / "elsewhere")
    try:
        done = call("reproduce", str(copy.path))
    finally:
        (folder / "elsewhere").rename(folder / "model")
    assert done.returncode == 3
    assert "resolved.yaml:" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_run_of_an_earlier_version_is_compared_by_its_losses(copy: RunDirectory, call: Command) -> None:
    copy.inputs.unlink()
    done = call("reproduce", str(copy.path), "--steps", "1")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^inputs +not compared  the run has no inputs.json", done.stdout, re.MULTILINE)
    assert "verdict   equal to the bit" in done.stdout
