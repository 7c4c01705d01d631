"""Saves the results of a reference pass while it runs, so that an interrupted pass can be resumed."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dpo_recipes.cache import cache_folder

_KEPT_EVERY_S = 60.0
_SUFFIX = ".npz"


def _load(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:  # numpy leaves one open that it has opened itself and cannot read
        return dict(np.load(file))


class Logps:
    """Log-probabilities of some of a number of rows."""

    def __init__(self, num_answers: int, num_rows: int) -> None:
        self.values = np.zeros((num_answers, num_rows), dtype=np.float32)
        """[answers, rows], in nats; 0 where unknown."""
        self.is_known = np.zeros(num_rows, dtype=bool)
        """[rows]."""

    def add(self, rows: Sequence[int], values: np.ndarray) -> None:
        """Set the values, [answers, n], of n rows."""
        self.values[:, rows] = values
        self.is_known[rows] = True


class ReferenceParts:
    """The files of one pass, one for each process, in a folder beside the cache's entries.

    They take a few bytes for each row. What cannot be read or written is silently computed again.
    """

    def __init__(self, key: str, rank: int) -> None:
        self._folder = cache_folder() / "reference" / f"{key}.parts"
        # The name is unique to this attempt, because runs with the same pass must not overwrite each other's results.
        self._path = self._folder / f"{rank}-{secrets.token_hex(4)}{_SUFFIX}"
        self._kept_at = time.monotonic()

    def read(self, num_answers: int, num_rows: int) -> Logps:
        """The results of all processes of earlier attempts, of any number."""
        found = Logps(num_answers, num_rows)
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            # The file is a zip: missing or damaged parts fail its checksums.
            with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                part = _load(path)
                (rows,) = part["is_known"].nonzero()
                found.add(rows.tolist(), part["values"][:, rows])
        return found

    def keep(self, logps: Logps) -> None:
        """Write the results once a minute."""
        if time.monotonic() - self._kept_at >= _KEPT_EVERY_S:
            self.write(logps)

    def write(self, logps: Logps) -> None:
        """Write the results, replacing the earlier file of this process."""
        aside = self._path.with_suffix(".tmp")
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            with aside.open("wb") as file:
                np.savez(file, values=logps.values, is_known=logps.is_known)
            aside.replace(self._path)
        self._kept_at = time.monotonic()

    def remove(self) -> None:
        """Remove the parts after the pass is complete."""
        shutil.rmtree(self._folder, ignore_errors=True)
