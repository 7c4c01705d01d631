"""Checks that a data file of an artifact is what its name says, and how large it becomes when it is decompressed."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator

from dpo_recipes.artifacts.container import too_large

MAX_RATIO = 200
"""Texts become 3 to 20 times smaller. A file of one repeated byte becomes 1,000 times smaller."""
MAX_UNPACKED_BYTES = 8 * 2**30
_SMALL_BYTES = 10_000_000
"""Below this size no ratio is suspicious."""
_STARTS = {".parquet": (b"PAR1",), ".arrow": (b"ARROW1", b"\xff\xff\xff\xff")}
_JSON_STARTS = (b"{", b"[")
_BOM = b"\xef\xbb\xbf"


def check_data(name: str, read: Callable[[], Iterator[bytes]], shown: str) -> str | None:
    """Why a data file is not what its name says; None if it is. `read` gives its content piece by piece.

    Raises `SharingError` S305 if it becomes too large when it is decompressed.
    """
    base = name
    content: Iterable[bytes] = read()
    if name.endswith(".gz"):
        base = name.removesuffix(".gz")
        content = _decompressed(read(), name, shown)
    is_first = True
    try:
        for chunk in content:
            if is_first and chunk and (why := _why_not_start(chunk, base)):
                return why
            is_first &= not chunk
            if base.endswith((".jsonl", ".json", ".csv", ".tsv")) and b"\0" in chunk:
                return "it has a zero byte, which no text has"
    except zlib.error as error:
        return f"it is not compressed with gzip: {error}"
    return None


def _why_not_start(head: bytes, name: str) -> str | None:
    for suffix, starts in _STARTS.items():
        if name.endswith(suffix) and not head.startswith(starts):
            return f"it does not begin as a {suffix} file"
    text = head.removeprefix(_BOM).lstrip()
    if name.endswith((".json", ".jsonl")) and text and not text.startswith(_JSON_STARTS):
        return "it does not begin as JSON"
    return None


def _decompressed(content: Iterator[bytes], name: str, shown: str) -> Iterator[bytes]:
    """The content of a gzip file, of which all parts are read."""
    decompressor = zlib.decompressobj(zlib.MAX_WBITS | 16)
    num_packed = num_unpacked = 0
    for chunk in content:
        num_packed += len(chunk)
        rest = chunk
        while rest:
            if decompressor.eof:
                decompressor = zlib.decompressobj(zlib.MAX_WBITS | 16)
            piece = decompressor.decompress(rest, 2**20)
            rest = decompressor.unused_data if decompressor.eof else decompressor.unconsumed_tail
            num_unpacked += len(piece)
            _check_ratio(num_packed, num_unpacked, name, shown)
            yield piece
    if not decompressor.eof:
        raise zlib.error("the end is missing")


def _check_ratio(num_packed: int, num_unpacked: int, name: str, shown: str) -> None:
    if num_unpacked > MAX_UNPACKED_BYTES:
        raise too_large(shown, f"{name} becomes more than {MAX_UNPACKED_BYTES / 2**30:.0f} GiB when it is decompressed")
    if num_unpacked > _SMALL_BYTES and num_unpacked > MAX_RATIO * num_packed:
        raise too_large(shown, f"{name} becomes more than {MAX_RATIO} times larger when it is decompressed")
