"""Loading YAML text as data with places."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

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
        ("0x" + "f" * 4000, "0x" + "f" * 4000),
        (".INF", math.inf),
        ("", None),
        ("|\n  one\n  two", "one\ntwo"),
        (">-\n  one\n  two", "one two"),
        ("'it''s'", "it's"),
        ("a # comment", "a"),
        ("a#b", "a#b"),
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


POSITIONS = """\
# a comment
schema: 1
data:
  train:
    - {path: "x.jsonl", limit:   3}
summary: |
  two
  lines
"""


@pytest.mark.parametrize(
    ("path", "value_at", "key_at"),
    [
        (("schema",), (2, 9, 1), (2, 1, 6)),
        (("data", "train", 0), (5, 7, 29), None),
        (("data", "train", 0, "path"), (5, 14, 9), (5, 8, 4)),
        (("data", "train", 0, "limit"), (5, 34, 1), (5, 25, 5)),
        (("summary",), (6, 10, 1), (6, 1, 7)),
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_line_column_and_length_are_those_an_editor_shows(
    tmp_path: Path, line_end: str, path: Any, value_at: Any, key_at: Any
) -> None:
    file = tmp_path / "r.yaml"
    file.write_bytes(POSITIONS.replace("\n", line_end).encode())
    span = load_file(file).spans[path]
    assert (span.value.line, span.value.column, span.value.length) == value_at
    assert (span.key and (span.key.line, span.key.column, span.key.length)) == key_at


def test_a_file_of_exactly_the_limit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("a: 1\n#" + "x" * (MAX_FILE_BYTES - 6))
    assert load_file(path).data == {"a": 1}


def test_text_that_is_not_utf_8_is_refused_with_its_line_and_byte(tmp_path: Path) -> None:
    path = tmp_path / "latin1.yaml"
    path.write_bytes(b"schema: 1\nname: caf\xe9\n")
    with pytest.raises(RecipeError) as caught:
        load_file(path)
    (finding,) = caught.value.findings
    assert (finding.where and finding.where.line, finding.why) == (2, "byte 19 is 0xe9")


def test_names_that_no_file_can_have_and_links_in_a_cycle(tmp_path: Path) -> None:
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    for name in ("loop.yaml", "x" * 300 + ".yaml"):
        with pytest.raises(RecipeError) as caught:
            load_file(tmp_path / name)
        assert caught.value.findings[0].code == "R101"


def test_findings_of_several_kinds_come_together() -> None:
    with pytest.raises(RecipeError) as caught:
        load_text("a: 1\na: 2\n3: x\nb: {c: 1, c: 2}\n", "f")
    assert [finding.code for finding in caught.value.findings] == ["R103", "R110", "R103"]


def test_an_alias_is_a_separate_copy() -> None:
    data = load_text("a: &x {k: [1]}\nb: *x\n", "f").data
    data["a"]["k"].append(2)
    assert data["b"] == {"k": [1]}


_SIZE = 100_000
_BOMBS = {
    "open brackets": ("[" * 4_000, "R109"),
    "open brackets, many": ("[" * _SIZE, "R109"),
    "closed brackets": ("[" * (_SIZE // 2) + "]" * (_SIZE // 2), "R109"),
    "braces": ("a: " + "{a: " * (_SIZE // 4), "R109"),
    "brackets on lines": ("a: " + "[\n " * (_SIZE // 3), "R109"),
    "items in items": ("- " * (_SIZE // 2) + "x", "R109"),
    "keys that are mappings": ("? " * (_SIZE // 2) + "x", "R109"),
    "blocks in blocks": ("".join(" " * level + "a:\n" for level in range(400)), "R109"),
    "aliases one level deeper each": (
        "a0: &a0 [x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}]\n" for i in range(_SIZE // 20)),
        "R109",
    ),
    "aliases that multiply": (
        "a0: &a0 [x, x]\n" + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(40)),
        "R105",
    ),
    "a wide alias, often": ("a: &a [" + "x, " * 5_000 + "]\nb: [" + "*a, " * 5_000 + "]", "R105"),
    "more values than a recipe has": ("a: [" + "{a: 1}, " * (_SIZE // 8) + "]", "R105"),
    "an alias in itself": ("a: &a {b: [*a]}", "R105"),
    "an alias in itself, as its key": ("? &a [*a]\n: b", "R105"),
}


@pytest.mark.parametrize("name", _BOMBS)
def test_text_that_would_exhaust_the_parser_is_refused_at_once(name: str) -> None:
    text, code = _BOMBS[name]
    begun = time.process_time()
    with pytest.raises(RecipeError) as raised:
        load_text(text, "bomb.yaml")
    assert time.process_time() - begun < 3  # 0.5 s at most on an idle machine
    (finding,) = raised.value.findings
    assert (finding.code, finding.where is not None and finding.where.line > 0) == (code, True)


def test_what_a_recipe_needs_is_not_refused() -> None:
    deep = "a: " + "[" * 60 + "]" * 60
    assert load_text(deep, "x.yaml").data["a"]
    sources = "train:\n" + "- {path: a.jsonl, split: train}\n" * 3_000
    assert len(load_text(sources, "x.yaml").data["train"]) == 3_000
    shared = "a: &a {b: [1, 2]}\nc: [*a, *a]\n"
    assert load_text(shared, "x.yaml").data["c"] == [{"b": [1, 2]}] * 2
