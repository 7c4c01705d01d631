"""The reading commands in a subprocess: what they print where, and their exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dpo_recipes.errors import RunError
from dpo_recipes.events import EventLog, EventReader
from dpo_recipes.run_dir import create_run_directory, write_json
from dpo_recipes.shipped import recipe_paths

Command = Callable[..., "subprocess.CompletedProcess[str]"]
HEAVY = {"torch", "transformers", "datasets", "trl", "peft", "accelerate", "numpy", "pandas"}


@pytest.mark.parametrize(
    "arguments", [["validate", "quickstart"], ["--help"], ["ls"], ["schema"], ["show", "quickstart"]]
)
def test_reading_commands_load_no_heavy_library(arguments: list[str]) -> None:
    program = (
        "import sys; from dpo_recipes.cli import app\n"
        f"try: app({arguments!r})\nexcept SystemExit as end: assert not end.code, end.code\n"
        f"print('LOADED', sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "LOADED []", done.stderr


def test_validate_reports_each_recipe_and_the_exit_code(command: Command, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("schema: 1\nnme: x\n")
    done = command("validate", "quickstart", "bad.yaml")
    assert done.returncode == 3
    assert done.stdout.splitlines() == ["quickstart: ok", "bad.yaml: 4 errors"]
    assert "did you mean `name`?" in done.stderr


def test_validate_json_is_data_on_stdout(command: Command, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("schema: 1\nnme: x\n")
    done = command("validate", "quickstart", "bad.yaml", "--json")
    good, bad = json.loads(done.stdout)
    assert (good["valid"], good["name"], good["findings"]) == (True, "quickstart", [])
    assert not bad["valid"]
    (unknown,) = [finding for finding in bad["findings"] if finding["code"] == "R203"]
    assert {"file": "bad.yaml", "line": 2, "column": 1}.items() <= unknown["where"].items()
    assert done.stderr == ""


def test_show_names_every_origin(command: Command, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("schema: 1\nmodel: {path: gpt2}\ndata: {train: [{path: a/b}]}\n")
    (tmp_path / "r.yaml").write_text("extends: base.yaml\nname: child\n")
    done = command("show", "r.yaml", "--set", "training.seed=7", "--json")
    shown = json.loads(done.stdout)
    origins = shown["origins"]
    assert shown["recipe"]["training"]["seed"] == 7
    assert origins["training.seed"] == "--set training.seed=7"
    assert origins["name"] == "r.yaml:2:1"
    assert origins["model.path"] == "base.yaml:2:9 (inherited)"
    assert origins["objective.beta"] == "default"


def test_ls_lists_the_shipped_recipes(command: Command) -> None:
    assert {row["name"] for row in json.loads(command("ls", "--json").stdout)} == set(recipe_paths())
    assert "quickstart" in command("ls").stdout


def test_cp_copies_the_data_too_and_never_overwrites(command: Command, tmp_path: Path) -> None:
    assert command("cp", "quickstart", "mine").returncode == 0
    assert command("validate", "mine/quickstart.yaml").stdout == "mine/quickstart.yaml: ok\n"
    assert (tmp_path / "mine" / "schema.json").exists()
    again = command("cp", "quickstart", "mine")
    assert (again.returncode, "error[U401]" in again.stderr) == (2, True)


def test_cp_copies_the_parents_too(command: Command, tmp_path: Path) -> None:
    assert command("cp", "smollm2_orpo", "mine").returncode == 0
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {
        "smollm2_orpo.yaml", "smollm2_hh.yaml", "schema.json",
    }  # fmt: skip
    assert command("validate", "mine/smollm2_orpo.yaml").returncode == 0
    assert command("cp", "smollm2_simpo", "mine").returncode == 0  # the parent is there already
    (tmp_path / "mine" / "smollm2_hh.yaml").write_text("changed")
    (tmp_path / "mine" / "smollm2_simpo.yaml").unlink()
    refused = command("cp", "smollm2_simpo", "mine")
    assert (refused.returncode, "smollm2_hh.yaml exists already" in refused.stderr) == (2, True)


@pytest.mark.parametrize("flags", [[], ["--full"]])
def test_init_writes_a_recipe_that_validates(command: Command, flags: list[str]) -> None:
    done = command("init", "mine.yaml", "--model", "gpt2", "--data", "owner/pairs", *flags)
    assert done.stdout == "mine.yaml\n"
    assert command("validate", "mine.yaml").returncode == 0
    assert command("init", "mine.yaml", "--model", "gpt2", "--data", "owner/pairs").returncode == 2


def test_init_asks_for_what_is_missing_only_on_a_terminal(command: Command, tmp_path: Path) -> None:
    done = command("init", "mine.yaml")
    assert (done.returncode, "--model is missing" in done.stderr) == (2, True)
    assert not (tmp_path / "mine.yaml").exists()


def test_explain(command: Command) -> None:
    assert command("explain", "r203").stdout.startswith("R203: an unknown key")
    assert "R203" in command("explain").stdout
    assert command("explain", "R999").returncode == 2


def test_usage(command: Command) -> None:
    assert command("--version").stdout == "dpo-recipe 0.1.0\n"
    assert command("rnu").returncode == 2
    missing = command("run", "no/such.yaml")
    assert (missing.returncode, "error[R101]" in missing.stderr) == (3, True)


def test_an_event_that_is_not_finished_waits(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    reader = EventReader(path)
    assert list(reader.new_events()) == []
    with EventLog(path) as log:
        log.emit("one")
    with path.open("a") as file:
        file.write('{"event": "tw')
    assert [event["event"] for event in reader.new_events()] == ["one"]
    with path.open("a") as file:
        file.write('o"}\n')
    assert [event["event"] for event in reader.new_events()] == ["two"]


def test_no_space_is_said_before_a_run_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import collections

    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10, 9, 1))
    with pytest.raises(RunError) as caught:
        create_run_directory(tmp_path, "r")
    assert (caught.value.findings[0].code, caught.value.exit_code) == ("T602", 6)
    assert list((tmp_path / "r").iterdir()) == []


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [child.name for child in tmp_path.iterdir()] == ["result.json"]
