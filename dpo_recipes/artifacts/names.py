"""Names of files in an artifact: which are allowed, and which two would be the same file on some system. And how an
artifact begins."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Iterable

MAX_NAME_BYTES = 155
"""A tar header has 155 bytes for folders and 100 for the rest of a name."""
_MAX_PART_BYTES = 100
BLOCK = 512
"""The unit of a tar archive."""
_RESERVED = {"con", "prn", "aux", "nul", *(f"{name}{number}" for name in ("com", "lpt") for number in range(10))}
_DRIVE = re.compile(r"[A-Za-z]:")


def is_container(head: bytes) -> bool:
    """Whether a file that begins with these 512 bytes is a tar archive."""
    return head[257:262] == b"ustar"


def why_not_allowed(name: str) -> str | None:
    """The reason why a file of an artifact cannot have a name; None if it can."""
    parts = name.split("/")
    faults = {
        "it is absolute, but files of an artifact stay below one folder": name.startswith(("/", "~"))
        or _DRIVE.match(name) is not None,
        "`..` leads out of the folder of the artifact": ".." in parts,
        "a backslash separates folders on Windows": "\\" in name,
        "it has a control character or one that is not visible": any(
            unicodedata.category(character).startswith("C") for character in name
        ),
        "a part of it is empty or a dot": "" in parts or "." in parts,
        "Windows cannot store it: a part ends with a dot or a space, or has a colon": any(
            part != part.rstrip(". ") or ":" in part for part in parts
        ),
        "it is the name of a device on Windows": any(part.partition(".")[0].lower() in _RESERVED for part in parts),
        f"it is longer than {MAX_NAME_BYTES} bytes, or a part of it longer than {_MAX_PART_BYTES}": any(
            _num_bytes(part) > _MAX_PART_BYTES for part in parts
        )
        or _num_bytes(name) > MAX_NAME_BYTES,
    }
    return next((why for why, is_so in faults.items() if is_so), None)


def find_clash(names: Iterable[str]) -> tuple[str, str] | None:
    """Two names that are one file on a system that ignores case or normalizes Unicode, or of which one would have to be
    both a file and a folder; None if there are none."""
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for name in names:
        key = _folded(name)
        clash = files.get(key) or folders.get(key)
        if clash is not None:
            return clash, name
        files[key] = name
        for parent in _parents(key):
            if parent in files:
                return files[parent], name
            folders.setdefault(parent, name)
    return None


def leads_out(folder: str, path: str) -> bool:
    """Whether a relative path in a file of `folder`, a folder of the artifact, leads out of the artifact."""
    return posixpath.normpath(posixpath.join("/root", folder, path.replace("\\", "/"))).split("/")[1:2] != ["root"]


def _num_bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def _parents(name: str) -> Iterable[str]:
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name
