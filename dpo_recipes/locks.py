"""Locks on files. The system releases a lock however the process that holds it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

LOOK_EVERY_S = 0.2
"""How often a lock that another process holds is tried."""


def try_lock(file: IO[Any], *, shared: bool = False) -> bool:
    """Lock an open file, for this process alone or shared with others. False if another process holds it."""
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of a file. False if there is no such file."""
    try:
        with path.open("r+b") as lock:  # opened for writing, because NFS grants no lock otherwise
            return not try_lock(lock, shared=True)
    except OSError:  # there is no such file, or neither it nor the run can be written to
        return False


@contextlib.contextmanager
def held(path: Path) -> Iterator[bool]:
    """Hold the lock of a file that exists only for it, after waiting for whoever holds it.

    Yields whether there is a lock: on a file system without locks, processes do not wait for each other.
    """
    while True:
        with path.open("a") as lock:
            is_ours = _wait_for(lock)
            if is_ours and not _is_at(lock, path):
                continue  # whoever held it has removed the file, and others may hold a new one
            try:
                yield is_ours
            finally:
                if is_ours:
                    path.unlink(missing_ok=True)
            return


def _wait_for(lock: IO[Any]) -> bool:
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOOK_EVERY_S)  # and not inside flock, so that Ctrl-C ends the wait
        except OSError:
            return False
        else:
            return True


def _is_at(file: IO[Any], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
