"""Texts that nearly repeat an earlier one, found with MinHash (library datasketch, extra `dedup`).

Two texts are alike by the Jaccard similarity of their sets of word 3-grams. MinHash and its bands only propose pairs
(Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4); the 3-grams themselves decide.
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
"""At least this share of the pairs that are just as alike as the threshold is proposed, and more of those above.
Below 0.07, 64 hashes propose fewer."""
_SEED = 1
# Runs of letters and digits, single other signs, and single characters of scripts that put no spaces between words
# (Thai to Burmese, kana, Han). Punctuation counts: `2 + 2` and `2 - 2` are not the same question.
_NO_SPACES = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
)
_WORD = re.compile(rf"[{_NO_SPACES}]|(?:(?![{_NO_SPACES}])\w)+|[^\w\s]")


def first_near_duplicate(texts: Iterable[str], threshold: float, num_perm: int = 64) -> Iterator[int | None]:
    """For each text in turn, which earlier one (counted from 0) it nearly repeats: the first of those, or none.

    A text that repeats another is not compared with later ones. `threshold` is the Jaccard similarity from which texts
    are alike, over 0 and up to 1. Case and white space do not matter. Texts are read one at a time; each that repeats
    none takes some 5 kB (200 words, threshold 0.8). More `num_perm` make fewer comparisons for more memory. The same
    texts give the same results. Raises `DataError` D411 at once when datasketch is not installed, and `ValueError`.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"the threshold lies over 0 and up to 1, not at {threshold}")
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
    """Bands and hashes per band: the longest bands, which propose the fewest pairs, that reach `MIN_RECALL`.

    A pair of similarity s is proposed with probability 1 - (1 - s^r)^b by b bands of r hashes.
    """
    # datasketch wants two bands at least.
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
