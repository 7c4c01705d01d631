"""Fetches artifacts from elsewhere, once by their content, and notices when an address leads to something else."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from dpo_recipes.artifacts import store
from dpo_recipes.artifacts.artifact import Artifact
from dpo_recipes.artifacts.pack import PackOptions, pack
from dpo_recipes.cache import cache_folder
from dpo_recipes.errors import SharingError


class Source(Protocol):
    """Where an artifact can be fetched from: one reference of one scheme."""

    @property
    def is_pinned(self) -> bool:
        """Whether the reference names its content, so that it can never lead elsewhere."""
        ...

    def find_version(self) -> str:
        """What the reference leads to now: a commit, or the digest of a manifest. Raises `SharingError` S4xx."""
        ...

    def fetch(self, version: str, folder: Path) -> Path:
        """Download an artifact or a recipe into a folder and return its path. Its bytes are those that the version
        names. Raises `SharingError` S4xx."""
        ...


def fetch(reference: str, source: Source, on_note: Callable[[str], None]) -> Artifact:
    """The artifact of an address, from the cache if it has it."""
    known = store.last_known(reference)
    if known is not None and source.is_pinned and (artifact := store.kept(known.digest, reference)):
        return artifact
    try:
        version = source.find_version()
    except SharingError as error:
        artifact = store.kept(known.digest, reference) if known is not None else None
        if error.findings[0].code != "S402" or known is None or artifact is None:
            raise
        on_note(f"{reference} cannot be reached; using what it was on {known.seen}: sha256:{known.digest}")
        return artifact
    if known is not None and known.version == version and (artifact := store.kept(known.digest, reference)):
        return artifact
    artifact = _download(reference, source, version)
    if known is not None and known.version != version and known.digest != artifact.digest:
        on_note(
            f"{reference} has moved: it was sha256:{known.digest} on {known.seen} and is sha256:{artifact.digest} now"
        )
    store.remember(reference, version, artifact.digest)
    return artifact


def _download(reference: str, source: Source, version: str) -> Artifact:
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="fetch.") as scratch:
            fetched = source.fetch(version, Path(scratch))
            if fetched.suffix not in (".yaml", ".yml"):
                return _reopened(store.keep_verified(fetched, reference))
            packed = pack(fetched, Path(scratch) / "packed.tar", PackOptions(inside=Path(scratch)))
            return _reopened(store.keep_verified(packed.path, reference))
    except OSError as error:
        raise store.cannot_store(error) from error


def _reopened(artifact: Artifact) -> Artifact:
    """The same artifact in the cache."""
    kept = store.kept(artifact.digest, artifact.shown)
    assert kept is not None, "it was kept just now"
    return kept
