"""Every recipe in tests/broken_recipes is refused with exactly the text in the .txt file beside it.

`UPDATE_SNAPSHOTS=1 pytest tests/unit/test_broken_recipes.py` rewrites the texts; read the difference before you
commit it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dpo_recipes.error_codes import CODES
from dpo_recipes.errors import DpoRecipeError
from dpo_recipes.jobs.chain_file import validate_file

FOLDER = Path(__file__).resolve().parent.parent / "broken_recipes"
BROKEN = sorted(FOLDER.glob("*.yaml"))


@pytest.fixture(autouse=True)
def _everything_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result does not depend on the libraries that are installed."""
    monkeypatch.setattr("dpo_recipes.recipe.launch_checks.is_installed", lambda package: True)
    monkeypatch.setattr("dpo_recipes.objectives.generation.has_vllm", lambda: True)


def _refusal(path: Path) -> DpoRecipeError:
    with pytest.raises(DpoRecipeError) as caught:
        validate_file(path)
    return caught.value


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_the_refusal_reads_as_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    error = _refusal(Path(path.name))
    text = str(error).replace(str(FOLDER), "FOLDER") + f"\n\nexit code {error.exit_code}\n"
    snapshot = path.with_suffix(".txt")
    if os.environ.get("UPDATE_SNAPSHOTS"):
        snapshot.write_text(text, encoding="utf-8")
    assert text == snapshot.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_every_finding_can_be_explained_and_points_somewhere(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    for finding in _refusal(Path(path.name)).findings:
        assert finding.code in CODES
        assert finding.where is not None
        assert finding.fix


def test_there_are_at_least_sixty() -> None:
    assert len(BROKEN) >= 60
