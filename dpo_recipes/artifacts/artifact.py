"""An artifact on disk: its manifest and the places of its files. Opening it checks names, sizes and hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dpo_recipes.artifacts.container import Member, chunks, read_members
from dpo_recipes.artifacts.manifest import MANIFEST, MAX_MANIFEST_BYTES, SIGNATURE, Manifest, read_manifest
from dpo_recipes.errors import SharingError

SUFFIX = ".recipe.tar"
_MAX_SIGNATURE_BYTES = 20_000


@dataclass(frozen=True)
class Artifact:
    """An artifact whose container, manifest and hashes are right. `verify.verify` checks what its files contain."""

    path: Path
    shown: str
    """Its name in messages: a path, or the reference that it was fetched by."""
    digest: str
    """The SHA-256 of the whole file."""
    num_bytes: int
    manifest: Manifest
    manifest_bytes: bytes
    members: dict[str, Member]
    """All files but the manifest and the signature."""
    signature: bytes | None

    def read(self, name: str) -> bytes:
        """The content of a file."""
        return b"".join(self.chunks(name))

    def chunks(self, name: str) -> Iterator[bytes]:
        """The content of a file, piece by piece."""
        with self.path.open("rb") as file:
            yield from chunks(file, self.members[name])

    def unpack(self, folder: Path) -> None:
        """Write all files below an empty folder. Only for an artifact that was verified."""
        for name in self.members:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                for chunk in self.chunks(name):
                    file.write(chunk)

    def is_unpacked(self, folder: Path) -> bool:
        """Whether a folder has all files as they are in the artifact."""
        for name, entry in self.manifest.files.items():
            try:
                with (folder / name).open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
                        return False
            except OSError:
                return False
        return True


def open_artifact(path: Path, shown: str | None = None) -> Artifact:
    """Open an artifact and check every hash.

    Raises `SharingError` S301 to S305 (the container), S306 and S313 (the manifest), and S307 (a file is not the one
    that the manifest names).
    """
    shown = shown or str(path)
    try:
        with path.open("rb") as file:
            return _open(file, path, shown)
    except OSError as error:
        raise SharingError.of(
            "S301", f"cannot read {shown}", why=error.strerror or str(error), fix="give the path of an artifact"
        ) from error


def _open(file: IO[bytes], path: Path, shown: str) -> Artifact:
    members = {member.name: member for member in read_members(file, shown)}
    first, *names = members
    head = members.pop(first)
    if first != MANIFEST or head.num_bytes > MAX_MANIFEST_BYTES:
        raise _wrong_list(shown, f"its first file is not a {MANIFEST} of at most {MAX_MANIFEST_BYTES / 1e6:.0f} MB")
    manifest_bytes = b"".join(chunks(file, head))
    manifest = read_manifest(manifest_bytes, shown)
    signature = None
    if names[-1:] == [SIGNATURE]:
        signed = members.pop(SIGNATURE)
        signature = b"".join(chunks(file, signed)) if signed.num_bytes <= _MAX_SIGNATURE_BYTES else b""
    _check_list(manifest, members, shown)
    for name, member in members.items():
        _check_hash(file, name, member, manifest, shown)
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    return Artifact(path, shown, digest, file.tell(), manifest, manifest_bytes, members, signature)


def _check_list(manifest: Manifest, members: dict[str, Member], shown: str) -> None:
    unlisted = [name for name in members if name not in manifest.files]
    missing = [name for name in manifest.files if name not in members]
    if unlisted or missing:
        why = f"{unlisted[0]} is not in the manifest" if unlisted else f"{missing[0]} is in the manifest only"
        raise _wrong_list(shown, why)
    if list(members) != sorted(members):
        raise _wrong_list(shown, "the files are not sorted by name")
    entry = manifest.files.get(manifest.recipe)
    if entry is None or entry.role != "recipe":
        raise _wrong_list(shown, f"{manifest.recipe}, which should be run, is not one of its recipes")


def _check_hash(file: IO[bytes], name: str, member: Member, manifest: Manifest, shown: str) -> None:
    entry = manifest.files[name]
    digest = hashlib.sha256()
    for chunk in chunks(file, member):
        digest.update(chunk)
    if (member.num_bytes, digest.hexdigest()) != (entry.bytes, entry.sha256):
        what = (
            f"it has {member.num_bytes:,} bytes and should have {entry.bytes:,}"
            if member.num_bytes != entry.bytes
            else f"its SHA-256 is {digest.hexdigest()} and should be {entry.sha256}"
        )
        raise SharingError.of(
            "S307",
            f"{name} in {shown} is not the file that was packed",
            why=what,
            fix="do not use it; fetch it again, or ask its author",
        )


def _wrong_list(shown: str, why: str) -> SharingError:
    return SharingError.of(
        "S306",
        f"the manifest of {shown} does not fit its files",
        why=why,
        fix="do not use it; `dpo-recipe pack` makes artifacts",
    )
