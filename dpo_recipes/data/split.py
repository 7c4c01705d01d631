"""Which rows go where: held-out parts drawn by prompt, mixtures by weight, and the best rows by a value.

Draws order things by a hash of the seed and the thing itself. So they need no state, are the same on each machine and
with each version of Python and numpy, and a larger draw holds the smaller ones.
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
    """64 bits of a prompt, as an unsigned integer; the order of a message's keys does not matter."""
    text = json.dumps(prompt, sort_keys=True, separators=(",", ":"), default=str)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def assign_splits(
    prompt_hashes: Sequence[int] | np.ndarray, wanted: Mapping[str, float | int], seed: int, stable: bool = False
) -> list[str]:
    """For each row its split: one of the names in `wanted`, or `train`. Rows with the same prompt go together.

    `wanted` gives each held-out split's size, a share of all rows (float) or rows (int), and is filled in its order.
    Prompts are drawn in the order of their hashes with the seed; one with more rows than are still wanted is passed
    over, until only such prompts are left: then the smallest is taken if that comes nearer. A split gets at least one
    prompt as long as there are any, and `train` what is left, perhaps nothing. The order of the rows does not matter.

    With `stable` each prompt's split follows from its own hash and the seed, whatever the other rows are; sizes are
    then approximate, and a split may be empty. Raises `ValueError` for shares outside 0 to 1 or that leave nothing,
    counts under 1, counts with `stable`, and a split called `train`.
    """
    _check_wanted(wanted, stable)
    hashes = np.array(prompt_hashes, dtype=np.uint64)
    prompts, prompt_of_row, num_rows = np.unique(hashes, return_inverse=True, return_counts=True)
    drawn = _mixed(prompts, f"split {seed}")
    split_of_prompt = np.zeros(len(prompts), np.int64)
    if stable:
        # The same draws as numbers from 0 to 1; [0, share of the first) is the first split, and so on.
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
    """For each source, which of its rows (sorted) make the largest mixture by weight in which no row is repeated.

    Sizes are rounded to whole rows, at least one from each source. A source without rows has no part in the mixture.
    Raises `ValueError` unless there is a weight over 0 for each source.
    """
    if len(counts) != len(weights):
        raise ValueError(f"there are {len(counts)} sources and {len(weights)} weights")
    if not all(weight > 0 and math.isfinite(weight) for weight in weights):
        raise ValueError(f"weights are numbers over 0, not {list(weights)}")
    # Exact, so that the source that limits the mixture gives all of its rows.
    shares = [Fraction(weight) for weight in weights]
    scale = min((count / share for count, share in zip(counts, shares, strict=True) if count), default=Fraction(0))
    mixture = []
    for source, (count, share) in enumerate(zip(counts, shares, strict=True)):
        size = min(count, max(1, round(share * scale)))
        order = np.argsort(_mixed(np.arange(count, dtype=np.uint64), f"mix {seed} {source}"))
        mixture.append(np.sort(order[:size]).tolist())
    return mixture


def top_rows(values: Sequence[float | None], count: int, largest: bool = True) -> list[int]:
    """Where the `count` largest (or smallest) values stand, in their original order.

    Of equal values the first are taken; null and NaN never are, so that there may be fewer.
    """
    numbers = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    places = np.flatnonzero(~np.isnan(numbers))
    keys = numbers[places]
    best = places[np.argsort(-keys if largest else keys, kind="stable")[:count]]
    return np.sort(best).tolist()


def _check_wanted(wanted: Mapping[str, float | int], stable: bool) -> None:
    shares = [size for size in wanted.values() if isinstance(size, float)]
    if "train" in wanted:
        raise ValueError("`train` gets what is left and has no size of its own")
    if not all(0 < share < 1 for share in shares) or sum(shares) >= 1:
        raise ValueError(f"shares lie between 0 and 1 and leave something to train on, not {shares}")
    if any(size < 1 for size in wanted.values() if not isinstance(size, float)):
        raise ValueError("a split has at least one row")
    if stable and len(shares) < len(wanted):
        raise ValueError("a stable split has a share of the rows: a number of rows depends on the other rows")


def _nearest_groups(sizes: np.ndarray, wanted: int) -> list[int]:
    """Places of groups, in order, whose sizes add up to about `wanted`; at least one if there are any."""
    taken: list[int] = []
    missing = wanted
    for place, size in enumerate(sizes.tolist()):
        if size <= missing:
            taken.append(place)
            missing -= size
        if not missing:
            return taken
    others = np.delete(np.arange(len(sizes)), taken)
    if len(others):  # each has more rows than are missing
        smallest = int(others[np.argmin(sizes[others])])
        if not taken or sizes[smallest] - missing < missing:
            taken.append(smallest)
    return taken


def _mixed(numbers: np.ndarray, salt: str) -> np.ndarray:
    """Each unsigned 64-bit number as a random-looking one, differently for each salt; different ones stay different.

    The last steps of splitmix64 (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195) on the number and the salt.
    """
    key = np.frombuffer(blake2b(salt.encode(), digest_size=8).digest(), ">u8").astype(np.uint64)
    mixed = numbers + key
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
