"""Selects rows: held-out splits by prompt, mixtures by weight, and the top rows by a value.

Random draws order items by a hash of the seed and the item. They need no state, do not depend on the machine or the
versions of Python and numpy, and a larger draw contains the smaller ones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from hashlib import blake2b

import numpy as np

from dpo_recipes.data.rows import Message


def prompt_hash(prompt: list[Message]) -> int:
    """A 64-bit hash of a prompt, as an unsigned integer; the order of a message's keys does not matter."""
    text = json.dumps(prompt, sort_keys=True, separators=(",", ":"), default=str)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def assign_splits(
    prompt_hashes: Sequence[int] | np.ndarray, wanted: Mapping[str, float | int], seed: int, stable: bool = False
) -> list[str]:
    """The split of each row: one of the names in `wanted`, or `train`. Rows with the same prompt stay together.

    `wanted` has the size of each held-out split, as a share of all rows (float) or a number of rows (int). Splits are
    filled in this order. Prompts are drawn in the order of their hashes with the seed. A prompt with more rows than the
    split still needs is skipped; if only such prompts remain, the smallest is added if that brings the split closer to
    its size. A split gets at least one prompt if there is one; `train` gets the remaining rows and may be empty. The
    order of the rows does not matter.

    With `stable`, the split of a prompt depends only on its hash and the seed, not on the other rows. Sizes are then
    approximate, and a split may be empty.

    Raises `ValueError` for shares outside of 0 to 1 or that add up to 1, for counts below 1, for counts with `stable`,
    and for a split called `train`.
    """
    _check_wanted(wanted, stable)
    hashes = np.array(prompt_hashes, dtype=np.uint64)
    prompts, prompt_of_row, num_rows = np.unique(hashes, return_inverse=True, return_counts=True)
    drawn = _mixed(prompts, f"split {seed}")
    split_of_prompt = np.zeros(len(prompts), np.int64)
    if stable:
        # The hashes are uniform in [0, 2**64): the first split gets its share from 0 on, the next one follows, and so
        # on.
        ends = np.cumsum(list(wanted.values())) * 2.0**64
        reached = np.searchsorted(ends, drawn.astype(np.float64), side="right")
        split_of_prompt = np.where(reached < len(wanted), reached + 1, 0)
    else:
        left = np.argsort(drawn)
        for number, size in enumerate(wanted.values(), 1):
            rows = max(1, round(size * len(hashes))) if isinstance(size, float) else size
            taken = _nearest_groups(num_rows[left], rows)
            split_of_prompt[left[taken]] = number
            left = np.delete(left, taken)
    names = ["train", *wanted]
    return [names[number] for number in split_of_prompt[prompt_of_row].tolist()]


def mix(counts: Sequence[int], weights: Sequence[float], seed: int) -> list[list[int]]:
    """The sorted row indices of each source in the largest mixture by weight that repeats no row.

    Sizes are rounded to whole rows, with at least one from each source. A source without rows is left out. Raises
    `ValueError` unless each source has a weight greater than 0.
    """
    if len(counts) != len(weights):
        raise ValueError(f"there are {len(counts)} sources and {len(weights)} weights")
    if not all(weight > 0 and math.isfinite(weight) for weight in weights):
        raise ValueError(f"weights must be numbers greater than 0, but are {list(weights)}")
    # Fractions are exact, so all rows of the source that limits the mixture are used.
    shares = [Fraction(weight) for weight in weights]
    scale = min((count / share for count, share in zip(counts, shares, strict=True) if count), default=Fraction(0))
    mixture = []
    for source, (count, share) in enumerate(zip(counts, shares, strict=True)):
        size = min(count, max(1, round(share * scale)))
        order = np.argsort(_mixed(np.arange(count, dtype=np.uint64), f"mix {seed} {source}"))
        mixture.append(np.sort(order[:size]).tolist())
    return mixture


def top_rows(values: Sequence[float | None], count: int, largest: bool = True) -> list[int]:
    """The indices of the `count` largest (or smallest) values, in their original order.

    Of equal values the first are selected. None and NaN are never selected, so the result may be shorter.
    """
    numbers = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    places = np.flatnonzero(~np.isnan(numbers))
    keys = numbers[places]
    best = places[np.argsort(-keys if largest else keys, kind="stable")[:count]]
    return np.sort(best).tolist()


def _check_wanted(wanted: Mapping[str, float | int], stable: bool) -> None:
    shares = [size for size in wanted.values() if isinstance(size, float)]
    if "train" in wanted:
        raise ValueError("`train` gets the remaining rows and cannot have a size")
    if not all(0 < share < 1 for share in shares) or sum(shares) >= 1:
        raise ValueError(f"shares must be between 0 and 1 and add up to less than 1, but are {shares}")
    if any(size < 1 for size in wanted.values() if not isinstance(size, float)):
        raise ValueError("a split needs at least one row")
    if stable and len(shares) < len(wanted):
        raise ValueError("a stable split needs a share of the rows, because a number of rows depends on the other rows")


def _nearest_groups(sizes: np.ndarray, wanted: int) -> list[int]:
    """The indices of groups whose sizes add up to about `wanted`; at least one if there are any."""
    taken: list[int] = []
    missing = wanted
    for place, size in enumerate(sizes.tolist()):
        if size <= missing:
            taken.append(place)
            missing -= size
        if not missing:
            return taken
    others = np.delete(np.arange(len(sizes)), taken)
    if len(others):  # each has more rows than the split still needs
        smallest = int(others[np.argmin(sizes[others])])
        if not taken or sizes[smallest] - missing < missing:
            taken.append(smallest)
    return taken


def _mixed(numbers: np.ndarray, salt: str) -> np.ndarray:
    """A pseudorandom 64-bit number for each number, by a bijection that depends on the salt.

    These are the last steps of splitmix64 (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195), applied to the sum
    of the number and the salt's hash.
    """
    key = np.frombuffer(blake2b(salt.encode(), digest_size=8).digest(), ">u8").astype(np.uint64)
    mixed = numbers + key
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
