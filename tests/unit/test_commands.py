"""The installed command as a person or a program meets it: what stands on stdout and stderr, and how it ends."""

from __future__ import annotations

import io
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_objective
import pytest
from jsonschema import Draft202012Validator
from minimal import MINIMAL

import dpo_recipes
from dpo_recipes.cli.progress import Progress
from dpo_recipes.error_codes import CODES
from dpo_recipes.finished_run import FinishedRun
from dpo_recipes.recipe.load import load_file
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.run_dir import RunDirectory
from dpo_recipes.run_result import RunResult
from dpo_recipes.shipped import recipe_paths, recipes_folder

Write = Callable[[str, str], Path]
PROGRAM = Path(sys.executable).with_name("dpo-recipe")
START = [str(PROGRAM)] if PROGRAM.exists() else [sys.executable, "-m", "dpo_recipes"]
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """The command, started in the test's folder without a terminal."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*START, *arguments], cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60
        )

    return run


# --- in general ----------------------------------------------------------------------------------


def test_version(command: Command) -> None:
    done = command("--version")
    assert (done.returncode, done.stdout) == (0, f"dpo-recipe {dpo_recipes.__version__}\n")


@pytest.mark.parametrize("arguments", [["frobnicate"], ["validate"], ["ls", "--nosuch"], ["show"], []])
def test_wrong_usage_is_exit_code_2(command: Command, arguments: list[str]) -> None:
    assert command(*arguments).returncode == 2


@pytest.mark.parametrize("arguments", [["frobnicate"], ["explain", "X999"], ["show", "nosuch"], ["cp", "nosuch"]])
def test_a_refusal_goes_to_stderr_without_a_traceback(command: Command, arguments: list[str]) -> None:
    done = command(*arguments)
    assert done.stdout == ""
    assert done.stderr
    assert "Traceback" not in done.stderr


def test_closed_outputs_change_no_exit_code(tmp_path: Path) -> None:
    program = shlex.join(START)
    for end, returncode in (("nothere.yaml 2>&-", 3), ("quickstart >&-", 0), ("quickstart >/dev/full", 6)):
        done = subprocess.run(f"{program} validate {end}", shell=True, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        assert done.returncode == returncode, end
        assert "Traceback" not in done.stderr
    assert done.stderr == "error: the output cannot be written: No space left on device\n"
    with subprocess.Popen([*START, "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        assert reader.stderr is not None
        reader.stdout.close()
        assert reader.stderr.read() == b""
    assert reader.returncode == -signal.SIGPIPE, "as other tools before `| head`"


class Closed(io.StringIO):
    """A pipe that nobody reads any more."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_progress_that_nobody_sees_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Closed())
    with Progress() as progress:
        for number in range(2):
            progress.on_event({"event": "stage", "name": "train", "detail": f"{number}"})
    monkeypatch.undo()


RESULT = {
    "schema": 1,
    "status": "finished",
    "recipe": "job",
    "metrics": {"eval_loss": 0.4, "eval_rewards/accuracies": 0.85, "eval_rewards/margins": 1.25},
    "base_metrics": {"eval_loss": 0.6931, "eval_rewards/accuracies": 0.0, "eval_rewards/margins": 0.0},
    "steps": 3,
    "train_runtime_s": 1.0,
    "pairs_per_second": 2.0,
    "peak_memory_bytes": 2**30,
    "model_dir": "elsewhere/model",
}


def last_lines(capsys: pytest.CaptureFixture[str], result: dict[str, Any], kind: str = "dpo") -> list[str]:
    recipe = {"schema": 1, "name": "job", "model": {"path": "gpt2"}, "data": {"train": [{"path": "rows.jsonl"}]}}
    recipe["objective"] = {"kind": kind}
    run = RunDirectory(Path("runs/one"))
    Progress().summary(FinishedRun(run, Recipe.model_validate(recipe), RunResult.from_json(result)))
    return capsys.readouterr().err.splitlines()


def test_the_last_lines_of_a_run_have_its_results(capsys: pytest.CaptureFixture[str]) -> None:
    assert last_lines(capsys, RESULT) == [
        "done      3 steps, 1 s of training, 2.00 pairs/s, peak 1.00 GiB",
        "held out  loss 0.400 (base 0.693), accuracy 85.0%, margin +1.250",
        "model     runs/one/model",
        "report    runs/one/report.html",
    ]


def test_the_last_lines_of_a_run_say_whether_the_saved_model_was_compared(capsys: pytest.CaptureFixture[str]) -> None:
    saved = {"checked": True, "equal": True, "pairs": 4, "largest_logit_difference": 2.08e-6, "largest_logit": 21.0}
    lines = last_lines(capsys, {**RESULT, "saved_model": saved})
    assert "saved     reloaded and compared on 4 rows: largest logit difference 2.1e-06" in lines


def test_the_last_lines_have_the_metrics_of_the_objective(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_objective.register(monkeypatch)
    metrics = {"eval_loss": 0.4, "eval_rewards/rejected": -0.25, "eval_rewards/accuracies": 0.5, "eval_absent": None}
    lines = last_lines(capsys, {**RESULT, "metrics": metrics, "base_metrics": {"eval_rewards/rejected": 0.0}}, "fake")
    assert "held out  loss 0.400, pen \N{MINUS SIGN}0.25 (base 0.00)" in lines


def test_the_progress_line_has_the_live_metrics_of_the_objective(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_objective.register(monkeypatch)
    batch = SimpleNamespace(describe=lambda noun: f"8 {noun}s a step: 1 process", num_nodes=1)
    plan = SimpleNamespace(launch=SimpleNamespace(batch=batch), warnings=())
    metrics = {"loss": 0.5, "rewards/rejected": 0.125, "absent": None, "rewards/accuracies": 1.0, "eval_loss": 0.4}
    step = {"event": "step", "step": 2, "total": 2, "metrics": metrics, "tokens_per_second": 100.0, "eta_s": 0.0}
    with Progress() as progress:
        progress.on_event({"event": "run", "dir": "runs/one", "plan": plan, "objective": "fake", "resumed": False})
        progress.on_event(step)
    *_, launch, line = capsys.readouterr().err.splitlines()
    assert launch == "launch    8 pairs a step: 1 process"
    assert line == "train     step 2/2  loss 0.500  pen +0.12  100 tokens/s  ETA 0:00"


EARLY = """
import sys
class Interrupt:
    def find_spec(self, name, *rest):
        if name == "dpo_recipes.cli":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
from dpo_recipes.__main__ import main
main()
"""


def test_an_interrupt_while_it_loads_is_quiet() -> None:
    done = subprocess.run([sys.executable, "-c", EARLY], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_the_package_runs_as_a_module(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "dpo_recipes", "explain", "X999"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error[U403]")


# --- validate ------------------------------------------------------------------------------------


def test_validate_says_of_each_recipe_how_it_stands(command: Command, write: Write) -> None:
    write("good.yaml", MINIMAL)
    write("bad.yaml", MINIMAL + "  sead: 1\n  sed: 2\n")
    write("doubtful.yaml", MINIMAL.replace("  eval: {fraction: 0.1}\n", ""))
    done = command("validate", "good.yaml", "bad.yaml", "doubtful.yaml")
    assert done.returncode == 3
    assert done.stdout == "good.yaml: ok\nbad.yaml: 2 errors\ndoubtful.yaml: ok\n"
    assert done.stderr.count("error[R203]") == 2
    assert "  --> bad.yaml:13:3" in done.stderr
    assert "warning[R390]" in done.stderr


def test_validate_ends_with_0_when_all_is_well(command: Command, write: Write) -> None:
    write("good.yaml", MINIMAL)
    # One shipped recipe logs to a tracker that need not be installed here.
    flags = ("--set", "tracking.report_to=[]")
    done = command("validate", "good.yaml", *recipe_paths(), *flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"{name}: ok" for name in ("good.yaml", *recipe_paths())]


def test_a_missing_library_is_a_warning_while_checking_and_an_error_to_run(command: Command, write: Write) -> None:
    write("good.yaml", MINIMAL)
    flags = ("--set", "training={optimizer: schedule_free_adamw, lr_scheduler: constant}")
    checked = command("validate", "good.yaml", *flags)
    assert checked.returncode == 0
    assert "warning[R316]: schedulefree is not installed" in checked.stderr
    refused = command("run", "good.yaml", *flags)
    assert refused.returncode == 3
    assert "error[R316]: schedulefree is not installed" in refused.stderr


def test_validate_prints_json_and_nothing_else(command: Command, write: Write) -> None:
    write("good.yaml", MINIMAL)
    write("bad.yaml", MINIMAL + "  sead: 1\n")
    done = command("validate", "--json", "good.yaml", "bad.yaml", "missing.yaml")
    assert (done.returncode, done.stderr) == (3, "")
    good, bad, missing = json.loads(done.stdout)
    assert good == {"file": "good.yaml", "valid": True, "name": "minimal", "findings": []}
    assert (bad["valid"], bad["name"]) == (False, None)
    (finding,) = bad["findings"]
    assert (finding["code"], finding["severity"], finding["fix"]) == ("R203", "error", "did you mean `seed`?")
    assert (finding["where"]["file"], finding["where"]["line"], finding["where"]["column"]) == ("bad.yaml", 13, 3)
    assert [f["code"] for f in missing["findings"]] == ["R101"]


def test_validate_applies_overrides(command: Command, write: Write) -> None:
    write("good.yaml", MINIMAL)
    done = command("validate", "good.yaml", "--set", "training.seed=-1")
    assert done.returncode == 3
    assert "  --> --set:1:15" in done.stderr


# --- show ----------------------------------------------------------------------------------------


@pytest.fixture
def origins(command: Command, write: Write) -> Any:
    """What `show` says of a recipe with a parent, an override and a local file: by JSON and by lines."""
    write("pairs.jsonl", "{}\n")
    write("base.yaml", MINIMAL.replace("owner/pairs", "pairs.jsonl"))
    write("own.yaml", "extends: base.yaml\nname: own\n")
    arguments = ["show", "own.yaml", "--set", "training.seed=7"]
    plain, as_json = command(*arguments), command(*arguments, "--json")
    assert (plain.returncode, plain.stderr, as_json.returncode, as_json.stderr) == (0, "", 0, "")
    lines = {line.split()[0]: line for line in plain.stdout.splitlines()}
    return lines, json.loads(as_json.stdout)


@pytest.mark.parametrize(
    ("path", "value", "origin"),
    [
        ("name", '"own"', "own.yaml:2:1"),
        ("model.path", '"owner/model"', "base.yaml:4:3 (inherited)"),
        ("training.seed", "7", "--set training.seed=7"),
        ("training.num_epochs", "1.0", "default"),
        ("data.train[0].path", "/pairs.jsonl", "base.yaml:8:7 (path made absolute)"),
        ("tracking.report_to", "[]", "default"),
    ],
)
def test_show_gives_every_value_with_its_origin(origins: Any, path: str, value: str, origin: str) -> None:
    lines, plain = origins
    assert value in lines[path]
    assert lines[path].endswith(f"  # {origin}")
    assert plain["origins"][path] == origin


def test_show_as_json_holds_the_whole_recipe(origins: Any, tmp_path: Path) -> None:
    recipe = origins[1]["recipe"]
    assert recipe["training"]["seed"] == 7
    assert recipe["data"]["train"][0]["path"] == str(tmp_path / "pairs.jsonl")
    assert recipe["schema"] == 1


def test_show_of_a_wrong_recipe_is_its_findings(command: Command, write: Write) -> None:
    write("bad.yaml", MINIMAL + "  sead: 1\n")
    done = command("show", "bad.yaml", "--json")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("error[R203]")


# --- schema --------------------------------------------------------------------------------------


def test_the_schema_is_a_json_schema_that_takes_every_shipped_recipe(command: Command) -> None:
    schema = json.loads(command("schema").stdout)
    Draft202012Validator.check_schema(schema)
    for path in recipe_paths().values():
        assert list(Draft202012Validator(schema).iter_errors(load_file(path).data)) == []


@pytest.mark.parametrize(
    ("recipe", "is_valid"),
    [
        ({"extends": "base.yaml", "training": {"seed": 1}}, True),
        ({"extends": "base.yaml", "data": {"limit": 1}, "model": {"dtype": "float32"}}, True),
        ({"training": {"seed": 1}}, False),
        ({**load_file(recipe_paths()["quickstart"]).data, "data": {"limit": 1}}, False),
        ({"extends": "base.yaml", "training": {"sead": 1}}, False),
        ({"extends": "base.yaml", "training": {"seed": "1"}}, False),
        ({"extends": "base.yaml", "training": {"learning_rate": 5}}, False),
        ({"extends": "base.yaml", "schema": 2}, False),
    ],
)
def test_the_schema_refuses_what_validate_refuses(command: Command, recipe: Any, is_valid: bool) -> None:
    schema = json.loads(command("schema").stdout)
    assert Draft202012Validator(schema).is_valid(recipe) == is_valid


def test_the_schema_that_is_shipped_is_the_one_printed(command: Command) -> None:
    shipped = recipes_folder() / "schema.json"
    assert json.loads(shipped.read_text(encoding="utf-8")) == json.loads(command("schema").stdout)


# --- explain -------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["R203", "r203"])
def test_explain_tells_what_a_code_means(command: Command, code: str) -> None:
    done = command("explain", code)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"R203: {CODES['R203'].title}\n\n{CODES['R203'].text}\n"


def test_explain_lists_all_codes(command: Command) -> None:
    assert [line.split()[0] for line in command("explain").stdout.splitlines()] == list(CODES)
    assert list(json.loads(command("explain", "--json").stdout)) == list(CODES)


def test_explain_of_an_unknown_code_names_a_near_one(command: Command) -> None:
    done = command("explain", "R2033")
    assert done.returncode == 2
    assert "did you mean R203?" in done.stderr
