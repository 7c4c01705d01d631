"""Inheritance, overrides, origins and paths."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpo_recipes.errors import RecipeError
from dpo_recipes.recipe.compose import compose
from dpo_recipes.recipe.dump import dump_recipe
from dpo_recipes.recipe.load import load_text
from dpo_recipes.recipe.paths import resolve_paths
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.validate import validate

Write = Callable[[str, str], Path]
BASE = "schema: 1\nname: base\nmodel: {path: gpt2}\ndata: {train: [{path: a/b}], eval: {fraction: 0.1}}\n"


def test_a_child_overrides_key_by_key_and_lists_replace(write: Write) -> None:
    write("base.yaml", "m: {x: 1, y: 2}\nl: [1, 2]\n")
    child = write("child.yaml", "extends: base.yaml\nm: {y: 3}\nl: [9]\n")
    assert compose(child).data == {"m": {"x": 1, "y": 3}, "l": [9]}


def test_a_mapping_of_another_kind_replaces_the_inherited_one(write: Write) -> None:
    write("base.yaml", "o: {kind: dpo, beta: 1}\n")
    assert compose(write("c.yaml", "extends: base.yaml\no: {kind: kto}\n")).data == {"o": {"kind": "kto"}}
    assert compose(write("d.yaml", "extends: base.yaml\no: {beta: 2}\n")).data == {"o": {"kind": "dpo", "beta": 2}}


def test_grandparents_are_relative_to_the_recipe_that_names_them(write: Write) -> None:
    write("x/grand.yaml", "a: 1\nb: 1\nc: 1\n")
    write("x/parent.yaml", "extends: grand.yaml\nb: 2\nc: 2\n")
    composed = compose(write("child.yaml", "extends: x/parent.yaml\nc: 3\n"))
    assert composed.data == {"a": 1, "b": 2, "c": 3}
    assert [composed.origins[(key,)].kind for key in "abc"] == ["parent", "parent", "file"]
    assert Path(composed.where(("a",)).file).name == "grand.yaml"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a.b=1e-5", {"a": {"b": 1e-5}, "l": [{"p": "x"}]}),
        ("a.b=", {"a": {"b": None}, "l": [{"p": "x"}]}),
        ('a.b="5"', {"a": {"b": "5"}, "l": [{"p": "x"}]}),
        ("a.b=x=y", {"a": {"b": "x=y"}, "l": [{"p": "x"}]}),
        ("a.b={c: [1, no]}", {"a": {"b": {"c": [1, "no"]}}, "l": [{"p": "x"}]}),
        ("l[0].p=z", {"a": {"b": 0}, "l": [{"p": "z"}]}),
        ("l[1]={p: q}", {"a": {"b": 0}, "l": [{"p": "x"}, {"p": "q"}]}),
        ("l[1].p=q", {"a": {"b": 0}, "l": [{"p": "x"}, {"p": "q"}]}),
        ("new.deep[0].k=1", {"a": {"b": 0}, "l": [{"p": "x"}], "new": {"deep": [{"k": 1}]}}),
    ],
)
def test_overrides_are_typed_like_yaml_and_create_missing_sections(
    write: Write, override: str, expected: dict[str, Any]
) -> None:
    assert compose(write("r.yaml", "a: {b: 0}\nl: [{p: x}]\n"), [override]).data == expected


@pytest.mark.parametrize("override", ["a", "=1", "a..b=1", "[0]=1", "a.b.c=1", "l.x=1", "l[7]=1", "a[0]=1", "a b=1"])
def test_overrides_that_cannot_be_applied(write: Write, override: str) -> None:
    with pytest.raises(RecipeError) as caught:
        compose(write("r.yaml", "a: {b: 0}\nl: [1]\n"), [override])
    assert caught.value.findings[0].code == "R113"
    assert caught.value.findings[0].where.text == override  # type: ignore[union-attr]


def test_the_place_of_a_finding_in_an_override_is_the_override(write: Write) -> None:
    composed = compose(write("r.yaml", "a: {b: 0}\n"), ["a.b=12"])
    where = composed.where(("a", "b"))
    assert (where.file, where.column, where.length, where.text) == ("--set", 5, 2, "a.b=12")


def test_paths_are_relative_to_the_file_that_names_them_and_overrides_to_the_current_folder(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("x/base.yaml", BASE.replace("a/b", "pairs.jsonl"))
    child = write("child.yaml", "extends: x/base.yaml\n")
    monkeypatch.chdir(write("elsewhere/other.jsonl", "").parent)
    inherited = resolve_paths(compose(child))
    assert inherited.data["data"]["train"][0]["path"] == str(tmp_path / "x" / "pairs.jsonl")
    assert inherited.data["model"]["path"] == "gpt2"
    overridden = resolve_paths(compose(child, ["data.train[0].path=other.jsonl"]))
    assert overridden.data["data"]["train"][0]["path"] == str(tmp_path / "elsewhere" / "other.jsonl")


def test_a_folder_beside_the_recipe_wins_over_a_hub_id(write: Write, tmp_path: Path) -> None:
    recipe = write("r.yaml", BASE)
    assert resolve_paths(compose(recipe)).data["model"]["path"] == "gpt2"
    (tmp_path / "gpt2").mkdir()
    assert resolve_paths(compose(recipe)).data["model"]["path"] == str(tmp_path / "gpt2")


def test_warnings_do_not_refuse(write: Write) -> None:
    text = BASE.replace(", eval: {fraction: 0.1}", "")
    assert [finding.code for finding in validate(write("r.yaml", text)).warnings] == ["R390"]


@pytest.mark.parametrize(
    "summary", ["no", "1e-5", "0o17", "~", "", "a: b", "# x", "two\nlines", "ä → 'quoted'", "=", "1:30"]
)
def test_a_resolved_recipe_loads_as_the_same_recipe(write: Write, summary: str) -> None:
    import json

    recipe = validate(write("r.yaml", BASE + f"summary: {json.dumps(summary, ensure_ascii=False)}\n")).recipe
    again = Recipe.model_validate(load_text(dump_recipe(recipe), "resolved").data)
    assert again == recipe
    assert again.summary == summary


def test_many_keys_at_a_place_that_both_recipes_write_are_merged_in_time(write: Write) -> None:
    write("base.yaml", "a: {" + "".join(f"k{n}: 1, " for n in range(6_000)) + "}\n")
    child = write("child.yaml", "extends: base.yaml\na: {" + "".join(f"k{n}: 2, " for n in range(3_000)) + "}\n")
    begun = time.process_time()
    composed = compose(child)
    assert (
        time.process_time() - begun < 10
    )  # this took minutes when each key was compared with the places of all others
    assert sum(composed.data["a"].values()) == 9_000
    assert composed.where(("a", "k1")).file.endswith("child.yaml")
    assert composed.where(("a", "k5000")).file.endswith("base.yaml")
