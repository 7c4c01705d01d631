"""Fixtures that more than one tier of tests uses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def own_cache(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A separate cache for each test and its processes; slow tests use the user's cache for real models."""
    if "slow" not in request.keywords:
        monkeypatch.setenv("DPO_RECIPE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def command(tmp_path: Path) -> Run:
    """The installed command in a subprocess, started in an empty folder."""

    def run(
        *arguments: str, cwd: Path = tmp_path, timeout: float = 300, **extra: object
    ) -> subprocess.CompletedProcess[str]:
        program = Path(sys.executable).with_name("dpo-recipe")
        return subprocess.run(
            [str(program), *arguments],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            **extra,  # type: ignore[call-overload]
        )

    return run


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    """Writes a text file into the test's folder and returns its path."""

    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real but tiny model; see tests/tiny.py."""
    from tiny import save_tiny_model

    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model")
