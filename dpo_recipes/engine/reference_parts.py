"""What a reference pass has computed so far, kept while it is going on: one that was ended goes on from there."""

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
    """Log-probabilities of some of a number of pairs."""

    def __init__(self, num_pairs: int) -> None:
        self.values = np.zeros((2, num_pairs), dtype=np.float32)
        """[2, pairs]: of the chosen and the rejected answers, in nats; 0 where not known."""
        self.is_known = np.zeros(num_pairs, dtype=bool)
        """[pairs]."""

    def add(self, pairs: Sequence[int], values: np.ndarray) -> None:
        """Put in the values, [2, n], of n pairs."""
        self.values[:, pairs] = values
        self.is_known[pairs] = True


class ReferenceParts:
    """The files of one pass, one for each process, in a folder beside the cache's entries.

    They are a few bytes a pair. What cannot be read or written is computed again, and nobody is troubled with it.
    """

    def __init__(self, key: str, rank: int) -> None:
        self._folder = cache_folder() / "reference" / f"{key}.parts"
        # A name that no other attempt has: of several runs with the same pass none may undo what another has kept.
        self._path = self._folder / f"{rank}-{secrets.token_hex(4)}{_SUFFIX}"
        self._kept_at = time.monotonic()

    def read(self, num_pairs: int) -> Logps:
        """What all processes of an earlier attempt have left, however many there were."""
        found = Logps(num_pairs)
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            # A zip file: a piece that is missing or damaged does not pass its checksums.
            with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                part = _load(path)
                (pairs,) = part["is_known"].nonzero()
                found.add(pairs.tolist(), part["values"][:, pairs])
        return found

    def keep(self, logps: Logps) -> None:
        """Write what is known once a minute."""
        if time.monotonic() - self._kept_at >= _KEPT_EVERY_S:
            self.write(logps)

    def write(self, logps: Logps) -> None:
        """Write what is known, in the place of what this process has written before."""
        aside = self._path.with_suffix(".tmp")
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            with aside.open("wb") as file:
                np.savez(file, values=logps.values, is_known=logps.is_known)
            aside.replace(self._path)
        self._kept_at = time.monotonic()

    def remove(self) -> None:
        """The pass is whole: its parts are needed no more."""
        shutil.rmtree(self._folder, ignore_errors=True)
