"""Checkpoints on disk: written to a temporary folder, sealed with checksums, renamed; damaged ones are detected.

Loads nothing heavy, because the supervising process reads checkpoints too.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo_recipes.cache import file_digest
from dpo_recipes.run_dir import follow_umask, write_json

PREFIX = "checkpoint-"
"""Folders are named as transformers names them, so that its tools find them."""
WRITING = ".writing"
"""The folder in which a checkpoint is written; its content is never complete."""
_REPLACED = ".replaced-"
"""The prefix of a checkpoint that is being replaced by another one of the same step."""
_MANIFEST = "manifest.json"
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError)
"""Errors of a manifest that is missing, truncated or malformed."""


@dataclass(frozen=True)
class Checkpoint:
    """A sealed checkpoint."""

    path: Path
    step: int
    facts: dict[str, Any]
    """The facts of its manifest: recipe, data, number of processes, value of the metric that chooses the best."""


def seal(written: Path, target: Path, facts: dict[str, Any]) -> Checkpoint:
    """Write the manifest of a checkpoint, flush all of it to the disk, read it back, and move it to its name.

    Raises `OSError` if a step fails, also if the data that is read back differs; in that case nothing new has the name.
    """
    follow_umask(written)
    files = sorted(path for path in written.rglob("*") if path.is_file())
    sizes = {str(path.relative_to(written)): [path.stat().st_size, file_digest(path)] for path in files}
    step = _step(target)
    write_json(written / _MANIFEST, {"step": step, "facts": facts, "files": sizes})
    for path in (*files, *(folder for folder in written.rglob("*") if folder.is_dir()), written):
        _sync(path)
    damage = find_damage(written)
    if damage:
        raise OSError(f"{target.name} could not be read back: {damage}")
    replaced = target.with_name(f"{_REPLACED}{target.name}")
    if target.exists():  # one of the same step, damaged or from before an evaluation that made it the best
        shutil.rmtree(replaced, ignore_errors=True)
        target.rename(replaced)
    written.rename(target)
    _sync(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)
    return Checkpoint(target, step, facts)


def find_damage(folder: Path) -> str | None:
    """A description of the damage of a checkpoint, or None if every file matches its manifest."""
    try:
        files = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))["files"]
        for name, (size, digest) in files.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} bytes instead of {size}"
            if file_digest(path) != digest:
                return f"the checksum of {name} differs"
    except _UNREADABLE as error:
        return f"its manifest cannot be read ({type(error).__name__})"
    return None


def newest_first(folder: Path) -> Iterator[Path]:
    """The folders of checkpoints below `folder`, complete or damaged."""
    found = [path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdecimal()]
    yield from sorted(found, key=_step, reverse=True)


def find_newest(folder: Path) -> tuple[Checkpoint | None, dict[str, str]]:
    """The newest complete checkpoint, and the damage of each newer one by name."""
    damaged: dict[str, str] = {}
    for path in newest_first(folder):
        damage = find_damage(path)
        if damage is None:
            return read(path), damaged
        damaged[path.name] = damage
    return None, damaged


def find_best(folder: Path, newest: Checkpoint, metric: str) -> tuple[Checkpoint | None, dict[str, str]]:
    """The complete checkpoint that was the best by a metric (`eval_<key>`) when it was written, the last such one up to
    `newest`, which is known to be complete; and by name the damage of each later one."""
    damaged: dict[str, str] = {}
    for checkpoint in _read_all(folder):
        # Checksums come last: they read a whole checkpoint, and for most of them one line of the manifest is enough.
        facts = checkpoint.facts
        if checkpoint.step <= newest.step and facts.get("is_best") and metric in facts:
            damage = None if checkpoint == newest else find_damage(checkpoint.path)
            if damage is None:
                return checkpoint, damaged
            damaged[checkpoint.path.name] = damage
    return None, damaged


def read(path: Path) -> Checkpoint:
    """The manifest of a complete checkpoint."""
    manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
    return Checkpoint(path, manifest["step"], manifest["facts"])


def read_facts(folder: Path) -> dict[str, Any] | None:
    """The facts of the newest manifest that can be read; the files of its checkpoint are not checked."""
    return next((checkpoint.facts for checkpoint in _read_all(folder)), None)


def _read_all(folder: Path) -> Iterator[Checkpoint]:
    """Those whose manifest can be read, the newest first."""
    for path in newest_first(folder):
        try:
            checkpoint = read(path)
        except _UNREADABLE:
            continue
        yield checkpoint


def prune(folder: Path, keep: int, newest: Checkpoint, best: str | None, damaged: Collection[str] = ()) -> None:
    """Remove all but the last `keep` checkpoints, of which `newest` has been read back, and the one named `best`.

    Those that are known to be damaged do not count. Damaged ones of a later step than `newest` stay until the run has
    reached that step again.
    """
    found = [path for path in newest_first(folder) if _step(path) <= newest.step]
    kept = {best, *[path.name for path in found if path.name not in damaged][:keep]}
    for path in found:
        if path.name not in kept:
            # From here on it does not count as a checkpoint, even if the process ends while removing it.
            gone = path.with_name(f"{WRITING}-{path.name}")
            shutil.rmtree(gone, ignore_errors=True)
            path.rename(gone)
            shutil.rmtree(gone)


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process left half written or half removed, and restore what it had only partly
    replaced."""
    for path in folder.glob(f"{_REPLACED}*"):
        name = folder / path.name.removeprefix(_REPLACED)
        if name.exists():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.rename(name)
    for path in folder.glob(f"{WRITING}*"):
        shutil.rmtree(path, ignore_errors=True)


def _step(path: Path) -> int:
    return int(path.name.removeprefix(PREFIX))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
