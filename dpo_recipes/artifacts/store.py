"""Verified artifacts in the cache, by their content; what a person has allowed to run; and where references led."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from dpo_recipes.artifacts.artifact import SUFFIX, Artifact, open_artifact
from dpo_recipes.artifacts.verify import verify
from dpo_recipes.cache import cache_folder, get_or_build
from dpo_recipes.errors import SharingError, is_no_space
from dpo_recipes.run_dir import write_json

_KIND = "artifacts"
_FILE = f"artifact{SUFFIX}"
_UNPACKED = "unpacked"


@dataclass(frozen=True)
class Known:
    """Where a reference led when it was last followed."""

    reference: str
    version: str
    """The commit of a repository or the digest of a registry's manifest."""
    digest: str
    """Of the artifact."""
    seen: str
    """The day."""


def keep(artifact: Artifact) -> Path:
    """The folder with the unpacked files of an artifact that was verified; it is copied to the cache if needed.

    Raises `SharingError` S410 if the cache cannot be written.
    """

    def build(folder: Path) -> None:
        shutil.copyfile(artifact.path, folder / _FILE)
        artifact.unpack(folder / _UNPACKED)

    try:
        folder, _ = get_or_build(_KIND, artifact.digest, build)
        if not artifact.is_unpacked(folder / _UNPACKED):  # somebody has changed or removed a file
            shutil.rmtree(folder)
            folder, _ = get_or_build(_KIND, artifact.digest, build)
    except OSError as error:
        raise cannot_store(error) from error
    if not artifact.is_unpacked(folder / _UNPACKED):
        raise SharingError.of(
            "S307",
            f"{artifact.shown} has changed while it was unpacked",
            why="its files are not those that were verified",
            fix="run the command again when nothing writes to the file",
        )
    return folder / _UNPACKED


def kept(digest: str, shown: str) -> Artifact | None:
    """The artifact of a digest, if the cache has it. What is in the cache was verified before, but its file may have
    been damaged: then it is None."""
    path = cache_folder() / _KIND / digest / _FILE
    if not path.is_file():
        return None
    try:
        artifact = open_artifact(path, shown)
    except SharingError:
        return None
    return artifact if artifact.digest == digest else None


def keep_verified(path: Path, shown: str) -> Artifact:
    """Verify a file and keep it. Raises the errors of `verify` and `keep`."""
    artifact = verify(path, shown)
    keep(artifact)
    return artifact


def unpacked_recipe(artifact: Artifact) -> Path:
    """The path of the recipe of an artifact, which is unpacked in the cache. Raises `SharingError` S410."""
    return keep(artifact) / artifact.manifest.recipe


def is_allowed(digest: str) -> bool:
    """Whether a person has allowed to run this artifact, or has packed it."""
    return (cache_folder() / "allowed" / digest).exists()


def allow(digest: str) -> None:
    """Remember that a person allows to run this artifact."""
    with contextlib.suppress(OSError):  # a cache that is not writable only means that the question comes again
        folder = cache_folder() / "allowed"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / digest).touch()


def last_known(reference: str) -> Known | None:
    """Where a reference led the last time, if it is known."""
    try:
        return Known(**json.loads(_note_of(reference).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def remember(reference: str, version: str, digest: str) -> None:
    """Note where a reference leads."""
    with contextlib.suppress(OSError):
        note = _note_of(reference)
        note.parent.mkdir(parents=True, exist_ok=True)
        write_json(note, asdict(Known(reference, version, digest, datetime.now(UTC).date().isoformat())))


def cannot_store(error: OSError) -> SharingError:
    """S410: the cache cannot be written."""
    why = error.strerror or str(error)
    fix = "free some space" if is_no_space(error) else "change its permissions"
    return SharingError.of(
        "S410",
        f"cannot store the artifact in {cache_folder()}",
        why=why,
        fix=f"{fix}, or set DPO_RECIPE_CACHE to another folder",
    )


def _note_of(reference: str) -> Path:
    return cache_folder() / "references" / f"{hashlib.sha256(reference.encode()).hexdigest()}.json"
