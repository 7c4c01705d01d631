"""Artifacts of strangers: each hostile one is refused with its own message, and nothing is executed or written."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile import HOSTILE, TEMPLATE, build, good_files, with_file, with_recipe, with_template

from dpo_recipes.artifacts import store
from dpo_recipes.artifacts.references import find
from dpo_recipes.artifacts.verify import verify
from dpo_recipes.errors import EXIT_SHARING, SharingError


def _write(folder: Path, raw: bytes) -> Path:
    path = folder / "one.recipe.tar"
    path.write_bytes(raw)
    return path


def _files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_good_artifact_is_verified_and_unpacked(tmp_path: Path) -> None:
    artifact = verify(_write(tmp_path, build()))
    assert set(artifact.members) == set(good_files())
    recipe = store.unpacked_recipe(artifact)
    assert recipe.parts[-2:] == ("recipe", "recipe.yaml")
    assert (recipe.parent / "data" / "pairs.jsonl").read_bytes() == good_files()["recipe/data/pairs.jsonl"][1]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_artifact_is_refused_with_its_own_message(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = HOSTILE[name]
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    path = _write(tmp_path, hostile.make())
    with pytest.raises(SharingError) as raised:
        find(str(path))
    assert raised.value.exit_code == EXIT_SHARING
    assert raised.value.findings[0].code == hostile.code
    text = str(raised.value)
    assert hostile.text in text
    assert all(character.isprintable() or character == "\n" for character in text)
    assert _files_below(tmp_path) == {"work", "one.recipe.tar"}  # nothing was unpacked, here or in the cache


def test_there_are_many_hostile_artifacts_and_their_messages_differ() -> None:
    assert len(HOSTILE) >= 30
    assert len({(hostile.code, hostile.text) for hostile in HOSTILE.values()}) > 0.9 * len(HOSTILE)


@pytest.mark.parametrize(
    "raw",
    [
        with_template(TEMPLATE + "{{ raise_exception('roles must alternate') }}"),
        with_template("{% generation %}{{ messages[0].content | trim }}{% endgeneration %}{{ strftime_now('%Y') }}"),
        with_recipe("schema: 1\nname: good\nsummary: /not a path\nmodel: {path: a/b, revision: " + "0" * 40 + "}\n"),
        with_file("recipe/data/empty.jsonl", "data", b""),
        with_file("recipe/data/more.csv", "data", b"prompt,chosen,rejected\n"),
        with_file("results/report.html", "result", b"<a href='https://host/x'>x</a><svg><a href='#b'/></svg>"),
    ],
    ids=["refuses", "generation", "revision", "empty", "csv", "links"],
)
def test_usual_contents_are_not_refused(raw: bytes, tmp_path: Path) -> None:
    verify(_write(tmp_path, raw))


def test_a_changed_file_in_the_cache_is_noticed(tmp_path: Path) -> None:
    path = _write(tmp_path, build())
    recipe = find(str(path)).path
    recipe.write_text("name: changed\n")
    assert find(str(path)).path.read_bytes() == good_files()["recipe/recipe.yaml"][1]


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DPO_RECIPE_CACHE", str(tmp_path / "file"))
    with pytest.raises(SharingError, match="S410") as raised:
        find(str(_write(tmp_path, build())))
    assert "set DPO_RECIPE_CACHE to another folder" in str(raised.value)
