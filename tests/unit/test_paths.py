"""A path in a recipe has the same meaning in whatever folder the command is started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from minimal import MINIMAL

from dpo_recipes.errors import RecipeError
from dpo_recipes.recipe.compose import Composed, compose
from dpo_recipes.recipe.paths import resolve_paths
from dpo_recipes.recipe.validate import validate

Write = Callable[[str, str], Path]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder is not that of the recipe."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def _resolved(path: Path, *overrides: str) -> Composed:
    return resolve_paths(compose(path, list(overrides)))


def _recipe(write: Write, data: str = "owner/pairs", model: str = "owner/model", name: str = "job/r.yaml") -> Path:
    return write(name, MINIMAL.replace("owner/pairs", data).replace("owner/model", model))


@pytest.mark.parametrize("data", ["pairs.jsonl", "./pairs.jsonl", "../job/pairs.jsonl", "sub/../pairs.jsonl"])
def test_a_data_file_is_relative_to_the_recipe(write: Write, tmp_path: Path, data: str) -> None:
    composed = _resolved(_recipe(write, data))
    assert composed.data["data"]["train"][0]["path"] == str(tmp_path / "job/pairs.jsonl")


def test_held_out_files_and_templates_are_relative_to_the_recipe_too(write: Write, tmp_path: Path) -> None:
    text = MINIMAL.replace("{fraction: 0.1}", "{sources: [{path: held.csv}]}") + "chat_template: my.jinja\n"
    composed = _resolved(write("job/r.yaml", text))
    assert composed.data["data"]["eval"]["sources"][0]["path"] == str(tmp_path / "job/held.csv")
    assert composed.data["chat_template"] == str(tmp_path / "job/my.jinja")


def test_a_path_from_set_is_relative_to_the_current_folder(write: Write, elsewhere: Path) -> None:
    composed = _resolved(_recipe(write), "data.train[0].path=pairs.jsonl", "model.path=./model")
    assert composed.data["data"]["train"][0]["path"] == str(elsewhere / "pairs.jsonl")
    assert composed.data["model"]["path"] == str(elsewhere / "model")


def test_an_inherited_path_is_relative_to_the_parent(write: Write, tmp_path: Path) -> None:
    _recipe(write, "pairs.jsonl", name="shared/base.yaml")
    composed = _resolved(write("job/own.yaml", "extends: ../shared/base.yaml\n"))
    assert composed.data["data"]["train"][0]["path"] == str(tmp_path / "shared/pairs.jsonl")


def test_a_tilde_is_the_home_folder(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    composed = _resolved(_recipe(write, "~/pairs.jsonl"))
    assert composed.data["data"]["train"][0]["path"] == str(tmp_path / "home/pairs.jsonl")


@pytest.mark.parametrize("name", ["owner/model", "gpt2", "pypi:name==1.0/file.gguf"])
def test_hub_ids_and_package_names_are_unchanged(write: Write, name: str) -> None:
    composed = _resolved(_recipe(write, model=name))
    assert composed.data["model"]["path"] == name
    assert composed.origins["model", "path"].kind == "file"


def test_an_existing_folder_takes_precedence_over_a_hub_id_of_that_name(write: Write, tmp_path: Path) -> None:
    write("job/owner/model/config.json", "{}")
    assert _resolved(_recipe(write)).data["model"]["path"] == str(tmp_path / "job/owner/model")


def test_a_file_named_like_a_shipped_template_does_not_hide_it(write: Write) -> None:
    write("job/plain", "")
    assert _resolved(write("job/r.yaml", MINIMAL + "chat_template: plain\n")).data["chat_template"] == "plain"


def test_a_path_made_absolute_keeps_its_place_and_says_so(write: Write) -> None:
    composed = _resolved(_recipe(write, "pairs.jsonl"))
    origin = composed.origins["data", "train", 0, "path"]
    assert (origin.kind, origin.where.line, origin.where.column) == ("resolved", 8, 13)


def test_a_path_from_set_made_absolute_still_names_the_override(write: Write) -> None:
    composed = _resolved(_recipe(write), "data.train[0].path=a.jsonl")
    assert str(composed.origins["data", "train", 0, "path"]) == "--set data.train[0].path=a.jsonl"


def test_the_composed_data_is_not_changed(write: Write) -> None:
    composed = compose(_recipe(write, "pairs.jsonl"))
    resolve_paths(composed)
    assert composed.data["data"]["train"][0]["path"] == "pairs.jsonl"


@pytest.mark.parametrize(
    "text",
    [
        "model: 3",
        "model: {path: 3}",
        "model: {path: null}",
        "data: [a]",
        "data: {train: {path: a}}",
        "data: {train: [a, 3], eval: x}",
        "data: {eval: {sources: 3}}",
        "chat_template: [a]",
    ],
)
def test_sections_of_the_wrong_shape_are_left_to_the_schema(write: Write, text: str) -> None:
    composed = compose(write("r.yaml", text + "\n"))
    assert resolve_paths(composed).data == composed.data


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("~no-such-user/pairs.jsonl", "R304"),
        ('"a\\0b.jsonl"', "R304"),
        ("x" * 300 + ".jsonl", "R304"),
        ("x" * 300 + "/pairs.jsonl", "R304"),
        ("../" + "x" * 300, "R304"),
    ],
)
def test_a_path_no_file_can_have_is_a_finding(write: Write, path: str, code: str) -> None:
    with pytest.raises(RecipeError) as caught:
        validate(_recipe(write, path))
    assert [finding.code for finding in caught.value.findings] == [code]


@pytest.mark.parametrize("path", ["~no-such-user/model", "./" + "x" * 300, '"./a\\0b"'])
def test_a_model_path_no_folder_can_have_is_a_finding(write: Write, path: str) -> None:
    with pytest.raises(RecipeError) as caught:
        validate(_recipe(write, model=path))
    assert [finding.code for finding in caught.value.findings] == ["R301"]


def test_a_template_path_no_file_can_have_is_a_finding(write: Write) -> None:
    with pytest.raises(RecipeError) as caught:
        validate(write("r.yaml", MINIMAL + f"chat_template: {'x' * 300}.jinja\n"))
    assert [finding.code for finding in caught.value.findings] == ["R310"]


def test_a_folder_that_must_not_be_read_is_a_finding(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, **_: object) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    path = _recipe(write, "/locked/pairs.jsonl")
    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(RecipeError) as caught:
        validate(path)
    assert "R304" in [finding.code for finding in caught.value.findings]
