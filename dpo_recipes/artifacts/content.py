"""Recognizes what a file is by its first bytes, and finds what no file of an artifact may contain."""

from __future__ import annotations

import re

_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_PROGRAMS = {
    b"\x7fELF": "a program for Linux",
    b"MZ": "a program for Windows",
    b"\xcf\xfa\xed\xfe": "a program for macOS",
    b"\xca\xfe\xba\xbe": "a program for macOS or Java",
    b"#!": "a script",
}
_PICKLE_SUFFIXES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".npy", ".npz", ".dill")
_CODE_SUFFIXES = (
    ".py",
    ".pyc",
    ".pyi",
    ".pyw",
    ".pyx",
    ".so",
    ".dll",
    ".dylib",
    ".ipynb",
    ".sh",
    ".bat",
    ".exe",
    ".js",
)
_HOME = re.compile(r"(?:/home/|/Users/|/root/|/mnt/c/|[A-Za-z]:\\{1,2}Users\\)[^\s\"'<>]*")


def why_not_by_name(name: str) -> str | None:
    """Why a file can be in no artifact, by its suffix; None if it may be in one."""
    lower = name.lower()
    if lower.endswith(_PICKLE_SUFFIXES):
        return "it is or may be a pickle, which runs code when it is opened"
    if lower.endswith(_CODE_SUFFIXES):
        return "it is code, and an artifact has none"
    return None


def why_not_by_content(head: bytes) -> str | None:
    """Why a file can be in no artifact, by its first bytes; None if it may be in one."""
    if _PICKLE.match(head):
        return "it is a pickle, which runs code when it is opened"
    if head.startswith(b"PK\x03\x04"):
        return "it is a zip archive, as PyTorch's pickles are"
    for start, kind in _PROGRAMS.items():
        if head.startswith(start):
            return f"it is {kind}, and an artifact has no code"
    return None


def find_home_path(text: str) -> str | None:
    """The first path in a text that names somebody's home folder; None if there is none."""
    found = _HOME.search(text)
    return found[0] if found else None


def replace_home_paths(text: str) -> str:
    """The text with only the last part of each path in a home folder."""
    return _HOME.sub(lambda found: ".../" + re.split(r"[/\\]", found[0].rstrip("/\\"))[-1], text)
