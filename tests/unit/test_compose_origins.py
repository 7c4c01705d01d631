"""The origins of composed values, and errors for invalid parents and overrides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from minimal import MINIMAL

from dpo_recipes.errors import Finding, RecipeError
from dpo_recipes.recipe.compose import MAX_PARENTS, Composed, compose

Write = Callable[[str, str], Path]


@pytest.fixture
def base(write: Write) -> Path:
    return write("base.yaml", MINIMAL)


def _refused(path: Path, *overrides: str) -> Finding:
    with pytest.raises(RecipeError) as caught:
        compose(path, list(overrides))
    return caught.value.findings[0]


def _place(composed: Composed, *path: str | int) -> tuple[str, int, int]:
    where = composed.where(path)
    return Path(where.file).name, where.line, where.column


# --- extends -------------------------------------------------------------------------------------


def test_null_replaces_an_inherited_mapping(write: Write, base: Path) -> None:
    composed = compose(write("own.yaml", "extends: base.yaml\nmodel: {adapter: null}\n"))
    assert composed.data["model"] == {"path": "owner/model", "adapter": None}


def test_a_place_is_in_the_file_that_sets_the_value(write: Write, base: Path) -> None:
    composed = compose(write("own.yaml", "extends: base.yaml\ntraining:\n  seed: 3\n"))
    assert _place(composed, "training", "seed") == ("own.yaml", 3, 9)
    assert _place(composed, "model", "path") == ("base.yaml", 4, 9)


def test_a_value_that_is_not_written_has_the_place_of_its_section(base: Path) -> None:
    assert _place(compose(base), "training", "seed") == ("base.yaml", 11, 1)


@pytest.mark.parametrize(
    ("own", "stale"),
    [
        ("data: {train: [{path: other/pairs}]}", ("data", "train", 0, "limit")),
        ("model: {adapter: {kind: other}}", ("model", "adapter", "r")),
        ("model: {adapter: null}", ("model", "adapter", "kind")),
    ],
)
def test_origins_of_replaced_values_are_removed(
    write: Write, base: Path, own: str, stale: tuple[str | int, ...]
) -> None:
    assert stale in compose(base).origins
    assert stale not in compose(write("own.yaml", f"extends: base.yaml\n{own}\n")).origins


def test_the_text_is_that_of_the_recipe_itself(write: Write, base: Path) -> None:
    text = "extends: base.yaml\n# mine\n"
    assert compose(write("own.yaml", text)).text == text


@pytest.mark.parametrize("parent", ["missing.yaml", ".", '"a\\0b"', "x" * 300, "[a.yaml]", "3"])
def test_a_parent_that_is_not_a_file_is_refused_where_it_is_named(write: Write, parent: str) -> None:
    finding = _refused(write("own.yaml", f"name: a\nextends: {parent}\n"))
    assert (finding.code, finding.where and finding.where.line) == ("R111", 2)


def test_a_cycle_of_recipes_is_refused_and_shown(write: Write) -> None:
    write("b.yaml", "extends: a.yaml\n")
    finding = _refused(write("a.yaml", "extends: b.yaml\n"))
    assert (finding.code, finding.why) == ("R112", "a.yaml -> b.yaml -> a.yaml")


def test_a_long_chain_is_refused_only_past_the_limit(write: Write) -> None:
    recipes = [write("r0.yaml", "name: a\n")]
    recipes += [write(f"r{i}.yaml", f"extends: r{i - 1}.yaml\n") for i in range(1, MAX_PARENTS + 1)]
    assert compose(recipes[-2]).data == {"name": "a"}
    assert _refused(recipes[-1]).code == "R112"


# --- --set ---------------------------------------------------------------------------------------


def test_the_last_of_two_overrides_wins(base: Path) -> None:
    assert compose(base, ["name=a", "name=b"]).data["name"] == "b"


def test_a_section_set_to_null_can_be_filled_again(base: Path) -> None:
    assert compose(base, ["model.adapter=null", "model.adapter.kind=lora"]).data["model"]["adapter"] == {"kind": "lora"}


def test_a_value_inside_an_overrides_mapping_has_a_place_of_its_own(base: Path) -> None:
    composed = compose(base, ["data.eval={fraction: 0.5}"])
    where = composed.where(("data", "eval", "fraction"))
    assert (where.file, where.column, where.length) == ("--set", 22, 3)
    assert str(composed.origins["data", "eval", "fraction"]) == "--set data.eval={fraction: 0.5}"


def test_the_key_of_an_override_is_the_text_before_the_equals_sign(base: Path) -> None:
    where = compose(base, ["training.sed=3"]).where(("training", "sed"), key=True)
    assert (where.column, where.length) == (1, len("training.sed"))


def test_an_override_removes_the_origins_of_what_it_replaces(base: Path) -> None:
    composed = compose(base, ["model.adapter={kind: lora}"])
    assert composed.data["model"]["adapter"] == {"kind": "lora"}
    assert ("model", "adapter", "r") not in composed.origins


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("training.seed", "no `=`"),
        ("=3", "no key"),
        ("training.seed.=3", "is not a path"),
        ("data.train[x]=3", "is not a path"),
        ("data.train[2].path=a", "the list has length 1"),
        ("data.train[5]=a", "the list has length 1"),
        ("data.eval.sources[1]=a", "the list has length 0"),
        ("data.train.path=a", "a list has no key `path`"),
        ("model[0]=a", "a mapping has no index [0]"),
        ("name.first=a", "the value 'minimal' has no key `first`"),
        ("extends=other.yaml", "parents are read before"),
    ],
)
def test_an_override_that_fits_nowhere_is_refused_with_the_reason(base: Path, override: str, why: str) -> None:
    finding = _refused(base, override)
    assert finding.code == "R113"
    assert why in str(finding.why)


def test_an_override_that_is_not_yaml_is_refused(base: Path) -> None:
    assert _refused(base, "summary=[a").code == "R102"
