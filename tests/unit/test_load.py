"""YAML text to data and positions."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from dpo_recipes.errors import RecipeError
from dpo_recipes.recipe.load import MAX_FILE_BYTES, load_file, load_text, parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-6", 5e-6),
        ("1E5", 1e5),
        ("1.", 1.0),
        (".5", 0.5),
        ("-0", 0),
        ("+12", 12),
        ("012", 12),
        ("0o17", 15),
        ("0x1F", 31),
        ("true", True),
        ("FALSE", False),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("~", None),
        ("Null", None),
        ("nil", "nil"),
        ("-.inf", -math.inf),
        ('"5"', "5"),
        ("'true'", "true"),
        ("1e", "1e"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(text: str, value: object) -> None:
    found, _ = parse_yaml(text, "f")
    assert found == value
    assert type(found) is type(value)


def test_nan_is_a_float() -> None:
    assert math.isnan(parse_yaml(".nan", "f")[0])


def test_keys_and_values_keep_their_places() -> None:
    source = load_text("a: 1\nb:\n  - {c: two}\n", "f.yaml")
    span = source.spans[("b", 0, "c")]
    assert span.key is not None
    assert (span.key.line, span.key.column, span.key.length) == (3, 6, 1)
    assert (span.value.line, span.value.column, span.value.length) == (3, 9, 3)
    assert span.value.text == "  - {c: two}"


def test_aliases_are_expanded() -> None:
    assert load_text("a: &x {k: 1}\nb: *x\n", "f").data == {"a": {"k": 1}, "b": {"k": 1}}


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    source = load_file(path)
    assert source.data == {"a": 1, "b": 2}
    assert source.spans[("b",)].value.line == 2


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"a: 1\n" * (MAX_FILE_BYTES // 5 + 1), "R106"), (b"a: \xff\xfe\n", "R108")],
)
def test_files_that_are_refused(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load_file(path)
    assert [finding.code for finding in caught.value.findings] == [code]


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(RecipeError) as caught:
            load_file(path)
        assert caught.value.findings[0].code == "R101"


def test_all_duplicates_are_found_in_one_go() -> None:
    with pytest.raises(RecipeError) as caught:
        load_text("a: 1\na: 2\nb: {c: 1, c: 2}\n", "f")
    assert [str(finding.where) for finding in caught.value.findings] == ["f:2:1", "f:3:11"]
