"""The documents are correct: generated pages are current, recipes in them validate, and codes exist."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import jsonschema
import pytest

from dpo_recipes.cli import VERBS
from dpo_recipes.error_codes import CODES
from dpo_recipes.errors import EXIT_CODE_BY_LETTER
from dpo_recipes.jobs.chain_file import validate_file
from dpo_recipes.jobs.chain_schema import job_json_schema
from dpo_recipes.recipe.checks import OF_THIS_MACHINE
from dpo_recipes.recipe.load import load_text

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("**/*.md"))]
RECIPE_BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
    if "schema:" in block
]


def test_the_reference_is_current() -> None:
    module = runpy.run_path(str(REPOSITORY / "docs" / "make_reference.py"))
    assert (REPOSITORY / "docs" / "recipe.md").read_text(encoding="utf-8") == module["make_reference"]() + "\n"


def test_the_page_about_imports_is_current() -> None:
    module = runpy.run_path(str(REPOSITORY / "docs" / "make_import.py"))
    assert (REPOSITORY / "docs" / "import.md").read_text(encoding="utf-8") == module["make_page"]() + "\n"


def test_the_table_of_saved_models_is_the_measured_one() -> None:
    table = runpy.run_path(str(REPOSITORY / "benchmarks" / "saved_models.py"))["table"]
    results = json.loads((REPOSITORY / "benchmarks" / "results" / "saved_models.json").read_text(encoding="utf-8"))
    assert table(results["cells"]) in (REPOSITORY / "docs" / "models.md").read_text(encoding="utf-8")
    assert results["largest"] < 1e-5


def test_the_page_of_commands_has_each_command() -> None:
    rows = re.findall(r"^\| (.*?) \|", (REPOSITORY / "docs" / "commands.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {command for row in rows for command in re.findall(r"`([a-z]+)", row)} == {*VERBS}


def test_the_editor_schema_is_current_and_valid() -> None:
    schema = json.loads((REPOSITORY / "recipes" / "schema.json").read_text(encoding="utf-8"))
    assert schema == job_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_validate_without_warnings_and_name_the_schema(path: Path) -> None:
    # The libraries and logins of this machine do not matter here.
    assert [finding for finding in validate_file(path).warnings if finding.code not in OF_THIS_MACHINE] == []
    assert path.read_text(encoding="utf-8").startswith("# yaml-language-server: $schema=schema.json\n")
    jsonschema.validate(load_text(path.read_text(encoding="utf-8"), path.name).data, job_json_schema())


@pytest.mark.parametrize("block", RECIPE_BLOCKS)
def test_recipes_in_the_documents_validate(block: str, tmp_path: Path) -> None:
    path = tmp_path / "block.yaml"
    path.write_text(block, encoding="utf-8")
    for name in re.findall(r"data: (\w+\.jsonl)", block):
        (tmp_path / name).touch()
    validate_file(path)


def test_recipes_were_found_in_the_documents() -> None:
    assert len(RECIPE_BLOCKS) >= 2


def test_every_code_that_is_used_is_explained_and_none_is_left_over() -> None:
    used: set[str] = set()
    for path in (REPOSITORY / "dpo_recipes").rglob("*.py"):
        if path.parent.name != "error_codes":
            used |= set(re.findall(r'"([RDMTIUFS]\d{3})"', path.read_text(encoding="utf-8")))
    assert used == set(CODES)
    assert {code[0] for code in CODES} <= set(EXIT_CODE_BY_LETTER)


def test_links_in_the_documents_lead_somewhere() -> None:
    broken = [
        f"{page.name}: {link}"
        for page in PAGES
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
        if not (page.parent / link).exists()
    ]
    assert not broken


def test_pictures_are_small_described_and_can_be_made_again(tmp_path: Path) -> None:
    pattern = re.compile(r"!\[([^\]]*)\]\(((?:docs/)?images/[^)]+)\)")
    shown = {(page.parent / link, text) for page in PAGES for text, link in pattern.findall(page.read_text("utf-8"))}
    assert {path for path, _ in shown} == set((REPOSITORY / "docs" / "images").iterdir())
    assert all(len(text) > 20 for _, text in shown)
    assert not [path.name for path, _ in shown if path.stat().st_size >= 200_000]
    module = runpy.run_path(str(REPOSITORY / "docs" / "make_screenshots.py"))
    assert set(module["PICTURES"]) <= {path.name for path, _ in shown}
    assert "20/20" not in module["live"](tmp_path)
    assert "15/20" in module["live"](tmp_path)


def test_python_files_named_in_the_documents_exist() -> None:
    files = [f"/{path.relative_to(REPOSITORY)}" for path in REPOSITORY.glob("[!.]*/**/*.py")]
    named = {
        (page.name, name)
        for page in PAGES
        for name in re.findall(r"`(?:\.\./)*([\w/]+\.py)`", page.read_text(encoding="utf-8"))
        if not name.endswith("/x.py")  # where a new file goes
    }
    assert len(named) > 10
    assert not [(page, name) for page, name in sorted(named) if not any(file.endswith(f"/{name}") for file in files)]


def test_errors_in_the_documents_are_those_that_a_recipe_gets() -> None:
    blocks = [
        (page.name, block)
        for page in PAGES
        for block in re.findall(r"```text\n(error\[.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    ]
    assert blocks
    for page, block in blocks:
        name = re.search(r"--> (\w+)\.yaml", block)
        assert name, f"{page}: the error names no recipe of tests/broken_recipes"
        snapshot = (REPOSITORY / "tests" / "broken_recipes" / f"{name[1]}.txt").read_text(encoding="utf-8")
        assert block == snapshot.partition("\nexit code")[0], page
