"""Names to code: every entry leads somewhere, and other packages may add theirs."""

from __future__ import annotations

import ast
from importlib import import_module
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any, get_args

import pytest

import dpo_recipes
from dpo_recipes import registry
from dpo_recipes.objectives import all_params
from dpo_recipes.recipe.schema.data import Source
from dpo_recipes.recipe.schema.launch import Launch
from dpo_recipes.recipe.schema_fields import kinds_of

PACKAGE = Path(dpo_recipes.__file__).parent
HEAVY = {"torch", "transformers", "datasets", "trl", "peft", "accelerate"}
ENTRIES = [(table, name, place) for table, entries in registry.TABLES.items() for name, place in entries.items()]


def _tree(place: str) -> ast.Module:
    path = PACKAGE.parent / (place.partition(":")[0].replace(".", "/") + ".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def _is_light(place: str) -> bool:
    imported: set[str] = set()
    for node in _tree(place).body:
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    return not imported & HEAVY


LIGHT = [entry for entry in ENTRIES if _is_light(entry[2])]


@pytest.mark.parametrize(("table", "name", "place"), LIGHT)
def test_an_entry_leads_to_the_object_it_names(table: str, name: str, place: str) -> None:
    module, _, attribute = place.partition(":")
    assert registry.load(table, name) is getattr(import_module(module), attribute)


@pytest.mark.parametrize(("table", "name", "place"), ENTRIES)
def test_an_entry_names_what_its_module_defines(table: str, name: str, place: str) -> None:
    defined: set[str] = set()
    for node in _tree(place).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            defined |= {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}
    assert place.partition(":")[2] in defined


def test_the_command_lines_tables_are_light() -> None:
    assert {table for table, _, _ in LIGHT} >= {"data_formats", "launchers"}


@pytest.mark.parametrize("table", registry.TABLES)
def test_an_unknown_name_is_answered_with_the_known_ones(table: str) -> None:
    with pytest.raises(KeyError) as caught:
        registry.load(table, "nosuch")
    message = caught.value.args[0]
    assert "nosuch" in message
    for name in registry.TABLES[table]:
        assert name in message


@pytest.mark.parametrize(
    ("table", "choices"),
    [
        ("objectives", [kind for params in all_params().values() for kind in kinds_of(params)]),
        ("launchers", [*get_args(Launch.model_fields["backend"].annotation)][1:]),
    ],
)
def test_the_schema_offers_exactly_what_the_tables_have(table: str, choices: Any) -> None:
    assert set(choices) == set(registry.TABLES[table])


def test_editors_are_offered_every_format_of_the_table() -> None:
    offered = Source.model_json_schema()["properties"]["format"]["anyOf"][0]["enum"]
    assert offered == ["auto", *sorted(registry.DATA_FORMATS)]


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another package is installed that adds two formats, one by a name we have."""
    group = "dpo_recipes.data_formats"
    points = EntryPoints([EntryPoint("extra", "json:dumps", group), EntryPoint("preference", "json:loads", group)])
    monkeypatch.setattr(registry, "entry_points", points.select)


@pytest.mark.usefixtures("outside")
def test_another_packages_entry_is_listed_and_loads() -> None:
    import json

    assert registry.names("data_formats") == sorted([*registry.DATA_FORMATS, "extra"])
    assert registry.load("data_formats", "extra") is json.dumps


@pytest.mark.usefixtures("outside")
def test_another_package_adds_to_its_own_table_only() -> None:
    assert "extra" not in registry.names("launchers")


@pytest.mark.usefixtures("outside")
def test_another_package_cannot_replace_ours() -> None:
    import json

    assert registry.load("data_formats", "preference") is not json.loads
