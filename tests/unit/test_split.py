"""Splitting, mixing and selecting: what holds for any data, any seed and any order of rows."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from dpo_recipes.data.rows import Message
from dpo_recipes.data.split import assign_splits, mix, prompt_hash, top_rows

SEEDS = (0, 1, 42, -7, 2**70)


def _user(text: str) -> Message:
    return Message(role="user", content=text)


def _hashes(num_rows: int, num_prompts: int, seed: int = 0) -> list[int]:
    draw = random.Random(seed)
    prompts = [draw.getrandbits(64) for _ in range(num_prompts)]
    return [draw.choice(prompts) for _ in range(num_rows)]


def test_a_prompt_has_one_hash_whatever_the_order_of_its_keys() -> None:
    assert prompt_hash([{"role": "user", "content": "Hi"}]) == prompt_hash([{"content": "Hi", "role": "user"}])
    assert 0 <= prompt_hash([_user("Hi")]) < 2**64


def test_the_hash_of_a_prompt_never_changes() -> None:
    """Stable splits of earlier runs depend on it. The number is from `b2sum -l 64` of the JSON that the hash is of,
    [{"content":"H\\u00e9","role":"user"}].
    """
    assert prompt_hash([_user("Hé")]) == 0xE9429FFA2C45F8A7


@pytest.mark.parametrize(
    "other",
    [
        [_user("hi")],
        [_user("Hi"), _user("Hi")],
        [Message(role="system", content="Hi")],
        [Message(role="user", content="Hi", name="a")],
    ],
)
def test_other_prompts_have_other_hashes(other: list[Message]) -> None:
    assert prompt_hash([_user("Hi")]) != prompt_hash(other)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("stable", [False, True])
def test_no_prompt_is_on_two_sides(seed: int, stable: bool) -> None:
    hashes = _hashes(2000, 300)
    sides = assign_splits(hashes, {"eval": 0.1, "test": 0.2}, seed, stable)
    assert len(sides) == len(hashes)
    assert set(sides) == {"train", "eval", "test"}
    assert len(set(zip(hashes, sides, strict=True))) == len(set(hashes))


@pytest.mark.parametrize("seed", SEEDS)
def test_sizes_are_exact_where_each_row_has_its_own_prompt(seed: int) -> None:
    hashes = list(range(1000))
    assert Counter(assign_splits(hashes, {"eval": 0.05, "test": 123}, seed)) == {"eval": 50, "test": 123, "train": 827}


@pytest.mark.parametrize("seed", range(10))
def test_sizes_are_near_with_prompts_of_many_rows(seed: int) -> None:
    """Prompts of 3 rows: 100 rows are nearest to 33 prompts, 99 rows, and 101 to 34 prompts, 102 rows."""
    hashes = [number for number in range(200) for _ in range(3)]
    assert assign_splits(hashes, {"eval": 100}, seed).count("eval") == 99
    assert assign_splits(hashes, {"eval": 101}, seed).count("eval") == 102
    assert assign_splits(hashes, {"eval": 1}, seed).count("eval") == 3  # one prompt at least


@pytest.mark.parametrize("seed", range(10))
def test_one_prompt_of_many_rows_does_not_fill_a_small_split(seed: int) -> None:
    hashes = [1] * 900 + list(range(2, 102))
    assert assign_splits(hashes, {"eval": 0.01}, seed).count("eval") == 10


def test_a_share_gives_at_least_one_prompt_and_may_take_the_last() -> None:
    assert assign_splits([1, 2, 3], {"eval": 0.01}, 0).count("eval") == 1
    assert assign_splits([1, 1], {"eval": 0.01}, 0) == ["eval", "eval"]
    assert assign_splits([1, 1], {"eval": 0.5, "test": 0.4}, 0) == ["eval", "eval"]
    assert assign_splits([1, 2], {"eval": 5}, 0) == ["eval", "eval"]
    assert assign_splits([], {"eval": 0.5, "test": 3}, 0) == []
    assert assign_splits([], {"eval": 0.5}, 0, stable=True) == []
    assert assign_splits([1, 2], {}, 0) == ["train", "train"]


@pytest.mark.parametrize("stable", [False, True])
def test_the_order_of_rows_does_not_matter_and_the_seed_does(stable: bool) -> None:
    hashes = _hashes(500, 200)
    sides = dict(zip(hashes, assign_splits(hashes, {"eval": 0.2}, 3, stable), strict=True))
    shuffled = random.Random(1).sample(hashes, len(hashes))
    assert dict(zip(shuffled, assign_splits(shuffled, {"eval": 0.2}, 3, stable), strict=True)) == sides
    assert dict(zip(hashes, assign_splits(hashes, {"eval": 0.2}, 4, stable), strict=True)) != sides


@pytest.mark.parametrize("seed", SEEDS)
def test_added_rows_move_no_prompt_of_a_stable_split(seed: int) -> None:
    wanted = {"eval": 0.1, "test": 0.1}
    hashes = _hashes(3000, 2000)
    before = dict(zip(hashes[:1000], assign_splits(hashes[:1000], wanted, seed, stable=True), strict=True))
    after = dict(zip(hashes, assign_splits(hashes, wanted, seed, stable=True), strict=True))
    assert before.items() <= after.items()
    assert {prompt: assign_splits([prompt], wanted, seed, stable=True)[0] for prompt in before} == before


@pytest.mark.parametrize("seed", SEEDS)
def test_stable_shares_are_about_right(seed: int) -> None:
    """20,000 prompts at 10 %: the standard deviation is 0.2 %; 1 % is five of them."""
    sides = Counter(assign_splits(range(20_000), {"eval": 0.1, "test": 0.3}, seed, stable=True))
    assert sides["eval"] == pytest.approx(2000, abs=200)
    assert sides["test"] == pytest.approx(6000, abs=330)


def test_a_larger_stable_share_holds_the_smaller_one() -> None:
    small = assign_splits(range(1000), {"eval": 0.1}, 0, stable=True)
    large = assign_splits(range(1000), {"eval": 0.3}, 0, stable=True)
    assert all(after == "eval" for before, after in zip(small, large, strict=True) if before == "eval")


def test_the_draws_never_change() -> None:
    """Runs of earlier versions can be repeated only if these stay."""
    assert [at for at, side in enumerate(assign_splits(range(30), {"eval": 5}, 42)) if side == "eval"] == [
        5,
        12,
        15,
        22,
        24,
    ]
    assert mix([10, 10], [1, 2], 42) == [[0, 2, 5, 8, 9], list(range(10))]


@pytest.mark.parametrize(
    ("wanted", "stable", "message"),
    [
        ({"eval": 10}, True, "stable"),
        ({"eval": 0.1, "test": 10}, True, "stable"),
        ({"eval": 0}, False, "at least one row"),
        ({"eval": 0.0}, False, "between 0 and 1"),
        ({"eval": 1.0}, False, "between 0 and 1"),
        ({"eval": math.nan}, False, "between 0 and 1"),
        ({"eval": 0.6, "test": 0.4}, False, "less than 1"),
        ({"train": 0.5}, False, "train"),
    ],
)
def test_sizes_that_mean_nothing_are_refused(wanted: dict[str, float], stable: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        assign_splits([1, 2, 3], wanted, 0, stable)


@pytest.mark.parametrize(
    ("counts", "weights", "sizes"),
    [
        ([100, 100], [1, 1], [100, 100]),
        ([100, 1000], [1, 1], [100, 100]),
        ([700, 300], [0.7, 0.3], [700, 300]),
        ([700, 400], [0.7, 0.3], [700, 300]),
        ([600, 300], [0.7, 0.3], [600, 257]),  # 600 * 3 / 7 = 257.1
        ([10, 1000, 1000], [1, 2, 3], [10, 20, 30]),
        ([10], [5], [10]),
        ([3, 1000], [1, 1e-6], [3, 1]),
        ([0, 10, 30], [1, 1, 2], [0, 10, 20]),
        ([0, 0], [1, 1], [0, 0]),
        ([], [], []),
    ],
)
def test_a_mixture_is_as_large_as_its_weights_allow(counts: list[int], weights: list[float], sizes: list[int]) -> None:
    mixture = mix(counts, weights, 0)
    assert [len(rows) for rows in mixture] == sizes
    for rows, count in zip(mixture, counts, strict=True):
        assert rows == sorted(set(rows) & set(range(count)))


def test_a_mixture_is_drawn_by_the_seed() -> None:
    assert mix([50, 100], [1, 1], 1) == mix([50, 100], [1, 1], 1)
    assert mix([50, 100], [1, 1], 1) != mix([50, 100], [1, 1], 2)
    assert mix([50, 100], [1, 1], 1)[1] != list(range(50))
    first, second, _ = mix([100, 100, 50], [1, 1, 1], 1)
    assert first != second  # each source has a draw of its own


@pytest.mark.parametrize("weights", [[1], [1, 0], [1, -1], [1, math.inf], [1, math.nan]])
def test_weights_that_mean_nothing_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        mix([1, 2], weights, 0)


@pytest.mark.parametrize(
    ("values", "count", "largest", "expected"),
    [
        ([3, 1, 2], 2, True, [0, 2]),
        ([3, 1, 2], 2, False, [1, 2]),
        ([1, 2, 2, 2], 2, True, [1, 2]),
        ([2, 1, 1, 1], 2, False, [1, 2]),
        ([None, 1, None, 2], 3, True, [1, 3]),
        ([math.nan, -1.5, None], 1, True, [1]),
        ([math.inf, 1, -math.inf], 2, False, [1, 2]),
        ([1, 2], 0, True, []),
        ([], 3, True, []),
        ([None], 3, False, []),
    ],
)
def test_the_top_rows_come_in_their_order(
    values: list[float | None], count: int, largest: bool, expected: list[int]
) -> None:
    assert top_rows(values, count, largest) == expected
