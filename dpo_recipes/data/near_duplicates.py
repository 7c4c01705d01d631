"""Finds texts that nearly repeat an earlier one with MinHash (library datasketch, extra `dedup`).

The similarity of two texts is the Jaccard similarity of their sets of word 3-grams. MinHash with banding only proposes
candidates (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4), which are then compared exactly.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any
from zlib import crc32

import numpy as np

from dpo_recipes.errors import DataError

SHINGLE_WORDS = 3
MIN_RECALL = 0.99
"""The least share of pairs with exactly the threshold's similarity that become candidates; pairs above it do so more
often. With 64 hashes and a threshold below 0.07 the share is lower."""
_SEED = 1
# A word is a run of letters and digits, a single other sign, or a single character of a script without spaces between
# words (Thai to Burmese, kana, Han). Punctuation counts: `2 + 2` and `2 - 2` are not the same question.
_NO_SPACES = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
)
_WORD = re.compile(rf"[{_NO_SPACES}]|(?:(?![{_NO_SPACES}])\w)+|[^\w\s]")


def first_near_duplicate(texts: Iterable[str], threshold: float, num_perm: int = 64) -> Iterator[int | None]:
    """The index of the first earlier text that each text nearly repeats, or None if it repeats none.

    A text that repeats another is not compared with later ones. `threshold` is the least Jaccard similarity of near
    duplicates, greater than 0 and at most 1. Case and white space are ignored. Texts are read one at a time; each that
    repeats none takes about 5 kB of memory (200 words, threshold 0.8). A larger `num_perm` makes fewer comparisons and
    needs more memory. The result is deterministic.

    Raises `DataError` D411 if datasketch is not installed, and `ValueError` for a threshold out of range.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"the threshold must be greater than 0 and at most 1, but is {threshold}")
    num_bands, rows_per_band = _bands(threshold, num_perm)
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError as error:
        raise DataError.of(
            "D411",
            "near duplicates need the library datasketch, which is not installed",
            why=str(error),
            fix="pip install 'dpo-recipe[dedup]', or set `data.dedup: exact`",
        ) from error
    num_perm = num_bands * rows_per_band
    blank = MinHash(num_perm=num_perm, seed=_SEED, hashfunc=int)
    index = MinHashLSH(num_perm=num_perm, params=(num_bands, rows_per_band))
    return _search(texts, threshold, blank, index)


def _search(texts: Iterable[str], threshold: float, blank: Any, index: Any) -> Iterator[int | None]:
    kept: dict[int, np.ndarray] = {}
    for place, text in enumerate(texts):
        shingles = _shingles(text)
        sketch = blank.copy()
        sketch.update_batch(shingles.tolist())
        candidates = sorted(index.query(sketch))
        found = next((one for one in candidates if _jaccard(shingles, kept[one]) >= threshold), None)
        if found is None:
            kept[place] = shingles
            index.insert(place, sketch, check_duplication=False)
        yield found


def _bands(threshold: float, num_perm: int) -> tuple[int, int]:
    """The number of bands, and of hashes per band: the longest bands that reach `MIN_RECALL` (fewest candidates).

    With b bands of r hashes, a pair of similarity s becomes a candidate with probability 1 - (1 - s^r)^b.
    """
    # datasketch requires at least two bands.
    for rows in range(num_perm // 2, 1, -1):
        bands = num_perm // rows
        if 1 - (1 - threshold**rows) ** bands >= MIN_RECALL:
            return bands, rows
    return num_perm, 1


def _shingles(text: str) -> np.ndarray:
    """The sorted 32-bit hashes of a text's word 3-grams; a shorter text is one gram."""
    words = _WORD.findall(text.lower())
    num_grams = max(1, len(words) - SHINGLE_WORDS + 1)
    grams = {" ".join(words[start : start + SHINGLE_WORDS]) for start in range(num_grams)}
    hashes = {crc32(gram.encode("utf-8", "surrogatepass")) for gram in grams}
    return np.array(sorted(hashes), dtype=np.uint32)


def _jaccard(one: np.ndarray, other: np.ndarray) -> float:
    num_shared = len(np.intersect1d(one, other, assume_unique=True))
    return num_shared / (len(one) + len(other) - num_shared)
