"""The container of an artifact: a plain tar archive in one canonical form.

The same files give the same bytes: names are sorted, and times, owners and modes are fixed. The reader accepts this
form only. So it needs no rules for links, devices, sparse files or extended headers, and the size of the file limits
the size of what is in it, because nothing is compressed (docs/adr/0031-artifacts-are-canonical-tars.md).
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO

from dpo_recipes.artifacts.names import BLOCK, find_clash, is_container, why_not_allowed
from dpo_recipes.errors import SharingError

MAX_FILES = 1000
MAX_BYTES = 4 * 2**30
"""The maximum size of an artifact."""
_END = bytes(2 * BLOCK)
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf": "7z",
}
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.DIRTYPE: "a folder",
    tarfile.CONTTYPE: "a contiguous file",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
    tarfile.GNUTYPE_LONGNAME: "a header of GNU tar for long names",
    tarfile.GNUTYPE_LONGLINK: "a header of GNU tar for long links",
    tarfile.XHDTYPE: "an extended header, which can change names and sizes",
    tarfile.XGLTYPE: "an extended header, which can change names and sizes",
}


@dataclass(frozen=True)
class Member:
    """A file in an artifact."""

    name: str
    num_bytes: int
    offset: int
    """Where its content begins."""


def write_container(files: Iterable[tuple[str, IO[bytes], int]], target: IO[bytes]) -> None:
    """Write files, given as name, content and size, in this order."""
    for name, content, num_bytes in files:
        target.write(_header(name, num_bytes))
        left = num_bytes
        while left:
            chunk = content.read(min(left, 2**20))
            if not chunk:
                raise OSError(f"{name} has become shorter while it was read")
            target.write(chunk)
            left -= len(chunk)
        target.write(bytes(-num_bytes % BLOCK))
    target.write(_END)


def container_of(files: Iterable[tuple[str, bytes]]) -> bytes:
    """The bytes of an archive of small files."""
    target = io.BytesIO()
    write_container(((name, io.BytesIO(content), len(content)) for name, content in files), target)
    return target.getvalue()


def read_members(file: IO[bytes], shown: str) -> list[Member]:
    """The files of an archive, whose contents are not read. `shown` is its name in errors.

    Raises `SharingError` S301 (no artifact, or truncated), S302 (a member that is no plain file), S303 (a name that is
    not allowed), S304 (two names that clash) and S305 (too large or too many).
    """
    file.seek(0, io.SEEK_END)
    total = file.tell()
    file.seek(0)
    if total > MAX_BYTES:
        raise too_large(shown, f"it has {total / 2**30:.1f} GiB")
    members: list[Member] = []
    offset = 0
    while (header := _read_header(file, offset, total, shown)) is not None:
        member = _read_member(header, offset, shown)
        end = member.offset + -(-member.num_bytes // BLOCK) * BLOCK
        if end > total:
            raise _truncated(
                shown, f"{member.name} should have {member.num_bytes:,} bytes, and {total - member.offset:,} are left"
            )
        file.seek(member.offset + member.num_bytes)
        if any(file.read(end - member.offset - member.num_bytes)):
            raise _damaged(shown, f"there are bytes between {member.name} and the next file")
        members.append(member)
        if len(members) > MAX_FILES:
            raise too_large(shown, f"it has more than {MAX_FILES} files")
        offset = end
    _check_end(file, offset, total, shown)
    _check_names(members, shown)
    return members


def chunks(file: IO[bytes], member: Member) -> Iterator[bytes]:
    """The content of a file in the archive, piece by piece."""
    file.seek(member.offset)
    left = member.num_bytes
    while left:
        chunk = file.read(min(left, 2**20))
        if not chunk:
            raise OSError("the file has become shorter while it was read")
        left -= len(chunk)
        yield chunk


def too_large(shown: str, why: str) -> SharingError:
    """S305: the artifact, or a file in it, is larger than any honest one."""
    return SharingError.of(
        "S305", f"{shown} is too large for an artifact", why=why, fix="do not use it; ask its author for a smaller one"
    )


def _header(name: str, num_bytes: int) -> bytes:
    """The one header that a file of this name and size can have."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = num_bytes, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")


def _read_header(file: IO[bytes], offset: int, total: int, shown: str) -> bytes | None:
    """The next header, or None at the end of the archive."""
    file.seek(offset)
    block = file.read(BLOCK)
    if offset == 0 and not is_container(block):
        raise _not_an_artifact(block, shown)
    if len(block) < BLOCK:
        raise _truncated(shown, f"the end of the archive is missing after {total:,} bytes")
    return None if block == bytes(BLOCK) else block


def _read_member(header: bytes, offset: int, shown: str) -> Member:
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        raise _damaged(shown, f"the header at byte {offset:,} is damaged: {error}") from error
    name = info.name
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        kind = _KINDS.get(info.type, f"of the unknown type {info.type!r}")
        raise SharingError.of(
            "S302",
            f"{_shown_name(name)} in {shown} is {kind}",
            why="an artifact has plain files only",
            fix="do not use it; `dpo-recipe pack` makes artifacts of plain files",
        )
    # frombuf strips a slash at the end, which old tars use to mark folders.
    raw_name = (header[345:500].rstrip(b"\0") + b"/" if header[345] else b"") + header[:100].split(b"\0")[0]
    why = why_not_allowed(raw_name.decode("utf-8", "surrogateescape")) or _why_not_utf8(name)
    if why is not None:
        raise SharingError.of(
            "S303",
            f"{shown} has a file with the name {_shown_name(name)}",
            why=why,
            fix="do not use it; nothing was unpacked",
        )
    try:
        is_canonical = _header(name, info.size) == header
    except ValueError:
        is_canonical = False
    if not is_canonical:
        raise SharingError.of(
            "S302",
            f"the header of {_shown_name(name)} in {shown} is not as `pack` writes it",
            why="time, owner and mode of a file in an artifact are fixed, so that equal recipes are equal files",
            fix="make it with `dpo-recipe pack` and not with another archiver",
        )
    return Member(name, info.size, offset + BLOCK)


def _why_not_utf8(name: str) -> str | None:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return "it is not UTF-8"
    return None


def _check_end(file: IO[bytes], offset: int, total: int, shown: str) -> None:
    file.seek(offset)
    if total < offset + len(_END):
        raise _truncated(shown, f"the end of the archive is missing after {total:,} bytes")
    if file.read(len(_END)) != _END or total != offset + len(_END):
        raise _damaged(shown, f"there is more after the end of the archive at byte {offset:,}")


def _check_names(members: list[Member], shown: str) -> None:
    clash = find_clash(member.name for member in members)
    if clash is not None:
        first, second = (_shown_name(name) for name in clash)
        raise SharingError.of(
            "S304",
            f"{shown} has two files with one name: {first} and {second}"
            if first != second
            else f"{shown} has two files with the name {first}",
            why="names that differ only in case or in Unicode form, or of which one is also a folder, are one file on "
            "some systems, and which of the two is meant cannot be told",
            fix="do not use it; nothing was unpacked",
        )


def _not_an_artifact(head: bytes, shown: str) -> SharingError:
    for start, kind in _COMPRESSED.items():
        if head.startswith(start):
            return SharingError.of(
                "S301",
                f"{shown} is compressed with {kind}, which no artifact is",
                why="an artifact is a plain tar, so that its size limits what it can unpack to",
                fix="decompress it first, if you trust it; `dpo-recipe pack` makes artifacts",
            )
    why = "it is empty" if not head else "it does not begin as a tar archive"
    return SharingError.of(
        "S301",
        f"{shown} is not an artifact",
        why=why,
        fix="`dpo-recipe pack RECIPE` makes one; a recipe that is not packed is checked with `dpo-recipe validate`",
    )


def _truncated(shown: str, why: str) -> SharingError:
    return SharingError.of("S301", f"{shown} is incomplete", why=why, fix="fetch or copy it again")


def _damaged(shown: str, why: str) -> SharingError:
    return SharingError.of("S301", f"{shown} is damaged", why=why, fix="fetch or copy it again")


def _shown_name(name: str) -> str:
    """A name that is safe to print: one line without control characters."""
    return ascii(name) if not name.isprintable() or not name.isascii() else f"`{name}`"
