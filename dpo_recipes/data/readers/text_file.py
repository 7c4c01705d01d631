"""Opens text files as UTF-8, plain or compressed with gzip, and identifies files that are something else."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import shlex
from pathlib import Path
from typing import IO

from dpo_recipes.errors import DataError

_HEAD_BYTES = 4096
_CHUNK_BYTES = 1 << 20

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_SIGNATURES = (
    (b"\x1f\x8b", "compressed with gzip", "add `.gz` to its name"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "decompress it with `zstd -d`"),
    (b"\xfd7zXZ\0", "compressed with xz", "decompress it with `xz -d`"),
    (b"BZh", "compressed with bzip2", "decompress it with `bzip2 -d`"),
    (b"PK\x03\x04", "a zip archive or an Excel workbook", "unpack it, or save the sheet as CSV in UTF-8"),
    (b"PAR1", "a Parquet file", "rename it to end in `.parquet`"),
    (b"ARROW1", "an Arrow file", "rename it to end in `.arrow`"),
    (b"version https://git-lfs", "a Git LFS pointer, not the data", "fetch the data with `git lfs pull`"),
    (b"<!doctype html", "a web page", "download the file itself (on the hub: the `resolve` address, not `blob`)"),
    (b"<html", "a web page", "download the file itself (on the hub: the `resolve` address, not `blob`)"),
)
# Letters and signs that are frequent in the languages of Western Europe. Those that a similar code page, such as the
# Turkish one, uses for another letter are left out.
_WESTERN = frozenset("àâäáãåæçèéêëìíîïñòóôöõøœùúûüßÀÂÄÁÃÅÆÇÈÉÊËÌÍÎÏÑÓÔÖÕØŒÙÚÛÜ€‚„…‘’“”•–—™©®°«»¡¿£§´·\xa0")
_CONVINCING = 3
"""The minimum number of characters that must fit an encoding before it is named as the likely one."""


def open_text(path: Path) -> IO[str]:
    """Opens a file as text. Raises `DataError` D401 if its first bytes show that it is another kind of file."""
    file = open_bytes(path)
    try:
        _check_head(file.peek(_HEAD_BYTES)[:_HEAD_BYTES], path)
    except BaseException:
        file.close()
        raise
    # Spreadsheets write a byte order mark, which is not part of the first column's name.
    return io.TextIOWrapper(file, encoding="utf-8-sig", newline="")


def open_bytes(path: Path) -> gzip.GzipFile | io.BufferedReader:
    """Opens a file as bytes, decompressed if its name ends in `.gz`."""
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def signature_error(path: Path) -> DataError | None:
    """D401 for a file whose first bytes are the signature of another kind than its suffix names, else None."""
    with path.open("rb") as file:
        return _signature_error(file.read(_HEAD_BYTES), path)


def not_utf8(path: Path) -> DataError:
    """D401 for a file that is not UTF-8, with the line and value of the first invalid byte, and how to convert it."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line, has_utf8 = 1, False
    with open_bytes(path) as file:
        while True:
            chunk = file.read(_CHUNK_BYTES)
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                before, bad = error.object[: error.start], error.object[error.start :]
                line += before.count(b"\n")
                has_utf8 = has_utf8 or not before.removeprefix(codecs.BOM_UTF8).isascii()
                begin = before.rpartition(b"\n")[2]
                return _decoding_error(path, line, begin + bad + file.read(_CHUNK_BYTES), len(begin), has_utf8)
            line += text.count("\n")
            has_utf8 = has_utf8 or not text.removeprefix("\ufeff").isascii()
            if not chunk:
                raise ValueError(f"{path} is UTF-8")


def _decoding_error(path: Path, line: int, sample: bytes, at: int, has_utf8: bool) -> DataError:
    value = f"the byte 0x{sample[at]:02x}"
    if len(sample) - at < 4 and b"\n" not in sample[at:]:
        why, fix = f"it ends in the middle of a character, with {value}", "copy or download it again"
    elif has_utf8:
        why = f"{value} is not valid there, but the text before it is UTF-8: the file is damaged or mixes encodings"
        fix = f"correct the line, or remove such bytes: `{_iconv(path, '-c -f UTF-8')}`"
    elif encoding := guess_encoding(sample):
        why = f"{value} is not valid there; the text is most likely {encoding}"
        fix = f"save it as UTF-8, or convert it: `{_iconv(path, f'-f {encoding}')}`"
    else:
        why = f"{value} is not valid there, and the encoding cannot be guessed"
        fix = f"save it as UTF-8, or convert it, for example `{_iconv(path, '-f WINDOWS-1252')}` if it is Windows-1252"
    return DataError.of("D401", f"{path}:{line} is not UTF-8", why=why, fix=fix)


def guess_encoding(sample: bytes) -> str | None:
    """The likely encoding of a text that is not UTF-8, under its name in iconv. None if it is uncertain."""
    high = re.findall(rb"[\x80-\xff]+", sample)
    pairs = b"".join(run for run in high if len(run) % 2 == 0)
    leads, trails = pairs[::2], pairs[1::2]
    if len(pairs) >= 0.9 * sum(map(len, high)) and len(leads) >= _CONVINCING and min(pairs) >= 0xA1:
        # The lead bytes of frequent characters are 0xB0 to 0xD7 in GB 2312. Those of Korean syllables end at 0xC8, and
        # those of kana are 0xA4 and 0xA5.
        frequent = [lead for lead in leads if 0xB0 <= lead <= 0xD7]
        if len(frequent) >= 0.6 * len(leads) and max(frequent) > 0xC8 and max(trails) > 0xA1:
            return "GB18030"
    if len(pairs) > 0.3 * sum(map(len, high)):
        return None
    letters = b"".join(high).decode("windows-1252", "replace")
    western = sum(letter in _WESTERN for letter in letters)
    return "WINDOWS-1252" if western >= max(_CONVINCING, 0.95 * len(letters)) else None


def _check_head(head: bytes, path: Path) -> None:
    if error := _signature_error(head, path):
        raise error
    marked = next((name for mark, name in _BYTE_ORDER_MARKS if head.startswith(mark)), None)
    encoding = marked or _utf16_without_mark(head)
    if encoding:
        why = "it starts with that encoding's byte order mark" if marked else "every other byte is NUL"
        raise DataError.of(
            "D401",
            f"{path}:1 is {encoding}, not UTF-8",
            why=f"{why}; the first byte is 0x{head[0]:02x}",
            fix=f"save it as UTF-8, or convert it: `{_iconv(path, f'-f {encoding}')}`",
        )


def _signature_error(head: bytes, path: Path) -> DataError | None:
    text = head[:64].lstrip().lower()
    for mark, what, fix in _SIGNATURES:
        named = path.name.endswith((".parquet", ".arrow")) and mark in (b"PAR1", b"ARROW1")
        if not named and (head.startswith(mark) or (mark.startswith(b"<") and text.startswith(mark))):
            return DataError.of("D401", f"{path} is {what}", why=f"it starts with {head[:4]!r}", fix=fix)
    return None


def _utf16_without_mark(head: bytes) -> str | None:
    for parity, name in ((1, "UTF-16LE"), (0, "UTF-16BE")):
        if len(head) >= 8 and head[parity::2].count(0) >= 0.4 * (len(head) // 2) and 0 not in head[1 - parity :: 2]:
            return name
    return None


def _iconv(path: Path, source: str) -> str:
    suffixes = "".join(path.suffixes[-2:] if path.suffix == ".gz" else path.suffixes[-1:])
    target = path.with_name(path.name.removesuffix(suffixes) + ".utf8" + suffixes)
    old, new = shlex.quote(str(path)), shlex.quote(str(target))
    if path.suffix == ".gz":
        return f"gzip -dc {old} | iconv {source} -t UTF-8 | gzip > {new}"
    return f"iconv {source} -t UTF-8 {old} > {new}"
