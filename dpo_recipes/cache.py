"""The cache folder, whose entries are identified by the content that they were built from.

An entry is a folder whose name is a key over all of its inputs. It is built in a temporary folder, which is renamed
when complete. Its manifest holds size and checksum of each file, so incomplete and damaged entries are never used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dpo_recipes.locks import held
from dpo_recipes.run_dir import follow_umask, write_json, write_text_atomically

_MANIFEST = "manifest.json"
_SETTLED_S = 3


def cache_folder() -> Path:
    """The folder for models and data: `$DPO_RECIPE_CACHE`, otherwise below `$XDG_CACHE_HOME` or `~/.cache`."""
    if os.environ.get("DPO_RECIPE_CACHE"):
        return Path(os.environ["DPO_RECIPE_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dpo-recipe"


def content_key(*parts: Any) -> str:
    """A key for plain data: 40 hexadecimal digits that differ if any part differs."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


def file_digest(path: Path) -> str:
    """The BLAKE2b digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=20)).hexdigest()


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, which is computed once for each state of the file."""

    def digest(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return remembered("sha256", path, digest)


def remembered(kind: str, path: Path, digest: Callable[[Path], str]) -> str:
    """The digest of a large file, computed once for each combination of its path, size, modification time and inode.

    The digest of a file that was changed in the last seconds is not stored: a further change may have the same time.
    """
    state = path.stat()
    place = str(path.resolve())
    note = cache_folder() / "digests" / content_key(kind, place, state.st_size, state.st_mtime_ns, state.st_ino)
    try:
        return note.read_text(encoding="utf-8")
    except (OSError, ValueError):
        found = digest(path)
    if time.time() - state.st_mtime > _SETTLED_S:
        with contextlib.suppress(OSError):  # a cache that is not writable costs only time
            note.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomically(note, found)
    return found


def get_or_build(kind: str, key: str, build: Callable[[Path], None]) -> tuple[Path, bool]:
    """The folder of an entry, and whether it already existed.

    `build` fills an empty folder. If it raises, the exception propagates and the folder is removed. Of several
    processes that need the same entry at once, one builds it and the others wait for it.
    """
    folder = cache_folder() / kind / key
    if is_whole(folder):
        return folder, True
    with entry_lock(kind, key):
        if is_whole(folder):
            return folder, True
        return build_entry(kind, key, build), False


@contextlib.contextmanager
def entry_lock(kind: str, key: str) -> Iterator[None]:
    """Hold the lock of an entry, after waiting for a process that builds it. What a process that was killed left of the
    entry is removed."""
    folder = cache_folder() / kind
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / f"{key}.lock") as is_locked:
        for partial in folder.glob(f"{key}.*.partial") if is_locked else ():
            shutil.rmtree(partial, ignore_errors=True)
        yield


def build_entry(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """The folder of an entry that `build` fills. Only for whoever holds the lock of the entry."""
    folder = cache_folder() / kind / key
    partial = folder.with_name(f"{key}.{secrets.token_hex(4)}.partial")
    partial.mkdir()
    try:
        build(partial)
        follow_umask(partial)
        files = sorted(path for path in partial.iterdir() if path.is_file())
        write_json(partial / _MANIFEST, {path.name: [path.stat().st_size, file_digest(path)] for path in files})
        if folder.exists() and not is_whole(folder):
            shutil.rmtree(folder)
        # On a file system without locks another process may have been faster; its entry is used.
        with contextlib.suppress(OSError):
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def is_whole(folder: Path) -> bool:
    """Whether an entry is complete and undamaged, according to the checksums of its manifest."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        return all(
            (folder / name).stat().st_size == size and file_digest(folder / name) == digest
            for name, (size, digest) in manifest.items()
        )
    except (OSError, ValueError, AttributeError):
        return False
