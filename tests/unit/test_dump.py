"""A resolved recipe is YAML that loads as the same recipe, with our loader and with others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from minimal import MINIMAL
from shipped_files import SINGLE

from dpo_recipes.recipe.dump import dump_recipe, plain_recipe
from dpo_recipes.recipe.load import load_text
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.validate import validate
from dpo_recipes.shipped import recipe_paths

Write = Callable[[str, str], Path]

AWKWARD = [
    *("no", "yes", "on", "~", "null", "", "true", "FALSE", "1e-5", "1.", "0o17", "017", "0x1f", "+1", "1:30", ".inf"),
    *(".nan", "2024-01-31", "=", "<<", "1_000", "- a", "a: b", "a #b", "#a", "*a", "&a", "!!str a", "{a}", "[a", "%a"),
    *("'quoted'", '"quoted"', "back\\slash", " leading", "trailing ", "tab\there", "two\nlines", "two\n\nlines\n"),
    *("\n", "ends\n\n", "  indented\nless", "naïve 模型 🙂", "\u2028", "\x85", "\ufeff", "\x00", "word " * 60, "---"),
]


def _recipe(write: Write, *overrides: str) -> Recipe:
    return validate(write("r.yaml", MINIMAL), list(overrides)).recipe


def _read_back(text: str) -> Recipe:
    return Recipe.model_validate(load_text(text, "resolved.yaml").data)


@pytest.mark.parametrize("text", AWKWARD)
def test_any_text_loads_as_itself(write: Write, text: str) -> None:
    recipe = _recipe(write).model_copy(update={"summary": text})
    assert _read_back(dump_recipe(recipe)) == recipe


@pytest.mark.parametrize("text", AWKWARD)
def test_any_text_in_a_list_loads_as_itself(write: Write, text: str) -> None:
    recipe = _recipe(write)
    adapter = recipe.model.adapter
    assert adapter is not None
    model = recipe.model.model_copy(update={"adapter": adapter.model_copy(update={"target_modules": [text, "b"]})})
    recipe = recipe.model_copy(update={"model": model})
    assert _read_back(dump_recipe(recipe)) == recipe


@pytest.mark.parametrize("text", ["no", "1e-5", "017", "1:30", "2024-01-31"])
def test_readers_of_yaml_1_1_get_the_same_text(write: Write, text: str) -> None:
    recipe = _recipe(write).model_copy(update={"summary": text})
    assert yaml.safe_load(dump_recipe(recipe))["summary"] == text


@pytest.mark.parametrize("number", ["5e-6", "1e-30", "1.0", "0.1", "1e-5", "0.30000000000000004"])
def test_a_number_keeps_every_digit(write: Write, number: str) -> None:
    recipe = _recipe(write, f"training.learning_rate={number}")
    assert _read_back(dump_recipe(recipe)).training.learning_rate == float(number)


@pytest.mark.parametrize("name", SINGLE)
def test_every_shipped_recipe_validates_again_once_resolved(write: Write, name: str) -> None:
    recipe = validate(recipe_paths()[name]).recipe
    assert validate(write("resolved.yaml", dump_recipe(recipe))).recipe == recipe


def test_a_resolved_recipe_validates_from_another_folder(write: Write, tmp_path: Path) -> None:
    write("job/pairs.jsonl", "{}\n")
    recipe = validate(write("job/r.yaml", MINIMAL.replace("owner/pairs\n      limit: 100", "pairs.jsonl"))).recipe
    assert validate(write("elsewhere/resolved.yaml", dump_recipe(recipe))).recipe == recipe


def test_overrides_and_inherited_values_are_merged(write: Write) -> None:
    write("base.yaml", MINIMAL)
    recipe = validate(write("own.yaml", "extends: base.yaml\nname: own\n"), ["training.seed=7"]).recipe
    data = load_text(dump_recipe(recipe), "resolved.yaml").data
    assert (data["name"], data["training"]["seed"], data["model"]["path"]) == ("own", 7, "owner/model")
    assert "extends" not in data


def test_every_field_is_written_with_its_default_under_its_yaml_name(write: Write) -> None:
    plain = plain_recipe(_recipe(write))
    assert plain["schema"] == 1
    assert plain["tracking"] == {
        "report_to": [], "project": None, "run_name": None, "group": None, "attach": True
    }  # fmt: skip
    assert plain["training"]["max_steps"] is None


def test_the_fields_are_in_the_order_of_the_schema(write: Write) -> None:
    assert list(load_text(dump_recipe(_recipe(write)), "r").data)[:4] == ["schema", "name", "summary", "model"]


def test_other_scripts_are_not_escaped(write: Write) -> None:
    assert "summary: 模型" in dump_recipe(_recipe(write).model_copy(update={"summary": "模型"}))
