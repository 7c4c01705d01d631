"""The verbs that write files: `init` and `cp` give a start and never overwrite; `ls` says what there is."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from shipped_files import recipes_in

from dpo_recipes import registry
from dpo_recipes.cli.new_recipe import ROW_HINTS
from dpo_recipes.launch.batch import effective_batch
from dpo_recipes.objectives import get_objective
from dpo_recipes.recipe.load import load_file
from dpo_recipes.recipe.validate import validate
from dpo_recipes.shipped import recipe_paths, recipes_folder

Command = Callable[..., "subprocess.CompletedProcess[str]"]
HUB = ["--model", "owner/model", "--data", "owner/pairs"]


# --- ls ------------------------------------------------------------------------------------------


def test_ls_names_every_shipped_recipe_with_its_summary(command: Command) -> None:
    lines = command("ls").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(recipe_paths())
    for line, path in zip(lines, recipe_paths().values(), strict=True):
        assert line.endswith(load_file(path).data["summary"])


def test_ls_as_json_gives_paths_that_exist(command: Command) -> None:
    rows = json.loads(command("ls", "--json").stdout)
    assert [row["name"] for row in rows] == list(recipe_paths())
    assert all(Path(row["path"]).is_file() and row["summary"] for row in rows)


# --- cp ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipe_paths())
def test_a_copy_stands_on_its_own(command: Command, tmp_path: Path, name: str) -> None:
    done = command("cp", name, "mine")
    assert done.returncode == 0, done.stderr
    written = [tmp_path / line for line in done.stdout.splitlines()]
    assert sorted(written) == sorted(path for path in (tmp_path / "mine").rglob("*") if path.is_file())
    for path in written:
        assert path.read_bytes() == (recipes_folder() / path.relative_to(tmp_path / "mine")).read_bytes()
    for recipe in recipes_in(tmp_path / "mine" / f"{name}.yaml").values():
        for source in [*recipe.data.train, *recipe.data.eval.sources]:
            if source.path.startswith("/"):
                assert Path(source.path).is_relative_to(tmp_path / "mine")


def test_the_data_of_the_quickstart_comes_along(command: Command, tmp_path: Path) -> None:
    assert command("cp", "quickstart", "mine").returncode == 0
    for name in ("train", "heldout"):
        assert (tmp_path / f"mine/data/everyday/{name}.jsonl").stat().st_size > 0


@pytest.mark.parametrize(("to", "written"), [("new.yaml", "new.yaml"), (".", "smollm2_hh.yaml"), ("a/b/c.yml",) * 2])
def test_a_copy_goes_to_a_file_or_a_folder(command: Command, tmp_path: Path, to: str, written: str) -> None:
    assert command("cp", "smollm2_hh", to).returncode == 0
    assert (tmp_path / written).is_file()


@pytest.mark.parametrize("existing", ["quickstart.yaml", "data/everyday/train.jsonl"])
def test_a_copy_overwrites_nothing_and_then_writes_nothing(command: Command, tmp_path: Path, existing: str) -> None:
    path = tmp_path / existing
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    done = command("cp", "quickstart")
    assert (done.returncode, done.stdout) == (2, "")
    assert "error[U401]" in done.stderr
    assert path.read_text() == "mine"
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]


def test_a_folder_that_cannot_be_made_is_refused(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    done = command("cp", "smollm2_hh", "file/sub/r.yaml")
    assert done.returncode == 2
    assert "error[U402]" in done.stderr


def test_a_name_that_is_not_shipped_is_answered_with_those_that_are(command: Command) -> None:
    done = command("cp", "nosuch")
    assert done.returncode == 3
    assert all(name in done.stderr for name in recipe_paths())


# --- init ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [[], ["--full"]])
def test_a_new_recipe_validates_without_a_warning(command: Command, tmp_path: Path, flags: list[str]) -> None:
    done = command("init", "mine.yaml", *HUB, "--name", "job", *flags)
    assert (done.returncode, done.stdout) == (0, "mine.yaml\n")
    assert "dpo-recipe validate mine.yaml" in done.stderr
    validated = validate(tmp_path / "mine.yaml")
    assert validated.warnings == ()
    assert (validated.recipe.name, validated.recipe.model.path) == ("job", "owner/model")
    assert (validated.recipe.model.adapter is None) == bool(flags)


@pytest.mark.parametrize("flags", [[], ["--full"]], ids=["lora", "full"])
@pytest.mark.parametrize("kind", registry.names("objectives"))
def test_a_new_recipe_of_each_objective_validates(
    command: Command, tmp_path: Path, kind: str, flags: list[str]
) -> None:
    done = command("init", "mine.yaml", *HUB, "--objective", kind, *flags)
    assert done.returncode == 0, done.stderr
    validated, objective = validate(tmp_path / "mine.yaml"), get_objective(kind)
    assert validated.warnings == ()
    recipe = validated.recipe
    assert recipe.objective == objective.params.model_validate({"kind": kind, **objective.starting_params})
    rates = objective.learning_rates(recipe.objective)
    if rates is not None:
        assert recipe.training.learning_rate == (rates.full if flags else rates.lora).start
    assert effective_batch(recipe) == 32
    text = (tmp_path / "mine.yaml").read_text(encoding="utf-8")
    for name in objective.params.model_fields:
        assert re.search(rf"^  (# )?{name}:", text, re.MULTILINE), name
    assert f"with {ROW_HINTS[objective.rows].columns};" in text


def test_an_objective_that_is_unknown_is_answered_with_the_known_ones(command: Command, tmp_path: Path) -> None:
    done = command("init", "mine.yaml", *HUB, "--objective", "dop")
    assert done.returncode == 2
    assert "error[U405]: there is no objective `dop`" in done.stderr
    assert "did you mean `--objective dpo`?" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_new_recipe_is_named_after_its_file(command: Command, tmp_path: Path) -> None:
    assert command("init", "mine.yaml", *HUB).returncode == 0
    assert validate(tmp_path / "mine.yaml").recipe.name == "mine"


@pytest.mark.parametrize(
    "text", ["no", "1e5", "~", "it's", "a: b", "a #b", "- a", "-", "[a", "{a}", "*a", "naïve 模型"]
)
def test_what_is_given_as_a_flag_arrives_as_that_text(command: Command, tmp_path: Path, text: str) -> None:
    done = command("init", "mine.yaml", f"--model={text}", f"--data={text}", f"--name={text}")
    assert done.returncode == 0, done.stderr
    data = load_file(tmp_path / "mine.yaml").data
    assert [data["name"], data["model"]["path"], data["data"]["train"][0]["path"]] == [text] * 3


def test_a_new_recipe_overwrites_nothing(command: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("mine")
    done = command("init", "mine.yaml", *HUB)
    assert (done.returncode, done.stdout) == (2, "")
    assert "error[U401]" in done.stderr
    assert (tmp_path / "mine.yaml").read_text() == "mine"


@pytest.mark.parametrize(("given", "missing"), [(HUB[:2], "--data"), (HUB[2:], "--model")])
def test_without_a_terminal_nothing_is_asked(command: Command, tmp_path: Path, given: list[str], missing: str) -> None:
    done = command("init", *given)
    assert done.returncode == 2
    assert f"error[U404]: {missing} is missing" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_missing_is_refused(command: Command) -> None:
    done = command("init", "nosuch/mine.yaml", *HUB)
    assert done.returncode == 2
    assert "error[U402]" in done.stderr
