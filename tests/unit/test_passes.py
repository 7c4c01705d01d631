"""Pairs of a step are put into passes by their tokens, and counted as if they had come one by one."""

from __future__ import annotations

import random

import pytest

from dpo_recipes.engine.token_batches import StepIndices, StepSampler, fill, fullest, shard_passes


def _lengths(count: int, seed: int = 0) -> list[tuple[int, int, int]]:
    draw = random.Random(seed)
    return [(draw.randint(1, 300), draw.randint(1, 60), draw.randint(1, 60)) for _ in range(count)]


def _positions(lengths: list[tuple[int, int, int]], *, shares: bool) -> int:
    width = max(prompt + max(chosen, rejected) for prompt, chosen, rejected in lengths)
    distinct, padded = sum(map(sum, lengths)), 2 * len(lengths) * width
    return distinct if shares and distinct <= 0.97 * padded else padded


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("max_tokens", [100, 800, 2000, 10**6])
@pytest.mark.parametrize("count", [1, 7, 64])
def test_each_pair_is_in_one_pass_within_the_budget(count: int, max_tokens: int, shares: bool) -> None:
    lengths = _lengths(count)
    passes = fill(lengths, max_tokens, shares=shares)
    assert sorted(place for pass_ in passes for place in pass_) == list(range(count))
    for pass_ in passes:
        assert len(pass_) == 1 or _positions([lengths[place] for place in pass_], shares=shares) <= max_tokens
    if max_tokens == 10**6:
        assert len(passes) == 1


def test_passes_are_well_filled() -> None:
    lengths = _lengths(200)
    passes = fill(lengths, 2000, shares=True)
    assert len(passes) <= 1.2 * sum(map(sum, lengths)) / 2000


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("processes", [2, 3, 8])
@pytest.mark.parametrize("count", [1, 5, 16, 64])
def test_every_process_gets_equally_many_passes(count: int, processes: int, shares: bool) -> None:
    lengths = _lengths(count)
    passes = shard_passes(lengths, 1000, processes, shares=shares)
    assert len(passes) % processes == 0
    assert len(passes) - len(fill(lengths, 1000, shares=shares)) < processes
    assert sorted(place for pass_ in passes for place in pass_) == list(range(count))
    for pass_ in passes:
        assert len(pass_) < 2 or _positions([lengths[place] for place in pass_], shares=shares) <= 1000
    assert all(passes) or all(len(pass_) <= 1 for pass_ in passes)


def test_passes_of_several_processes_are_of_about_equal_size() -> None:
    """15 pairs and one would be within the budget too, and one process would wait for the other."""
    passes = shard_passes([(100, 20, 20)] * 16, 15 * 140, 2, shares=True)
    assert [len(pass_) for pass_ in passes] == [8, 8]
    lengths = _lengths(64)
    sizes = [sum(sum(lengths[place]) for place in pass_) for pass_ in shard_passes(lengths, 2000, 4, shares=True)]
    assert max(sizes) <= 1.5 * min(sizes)


def test_one_long_row_does_not_make_long_rows_of_many_short_ones() -> None:
    """The head sees hidden states in padded rows, however few distinct tokens there are."""
    lengths = [(4000, 96, 96), *[(20, 10, 10)] * 60]
    assert sum(map(sum, lengths)) < 8000
    for pass_ in fill(lengths, 8000, shares=True):
        width = max(prompt + max(chosen, rejected) for prompt, chosen, rejected in (lengths[place] for place in pass_))
        assert 2 * len(pass_) * width <= 3 * 8000


def test_the_fullest_pass_is_no_smaller_than_any_that_comes() -> None:
    """What memory is planned by, and tried before the first step."""
    lengths = _lengths(500)
    largest = sum(sum(lengths[place]) for place in fullest(lengths, 1000, 32, shares=True))
    for seed in range(50):
        drawn = random.Random(seed).sample(lengths, 32)
        assert all(sum(sum(drawn[place]) for place in pass_) <= largest for pass_ in fill(drawn, 1000, shares=True))
    assert largest <= 1000
    assert len(fullest(lengths, 10**6, 32, shares=True)) == 32


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("count", [6, 8, 29])
def test_each_pair_of_a_step_counts_the_same_whatever_the_number_of_processes(count: int, processes: int) -> None:
    """Σ over passes and ranks of weight · (mean over its pairs), averaged over ranks, is the mean over the step."""
    lengths = _lengths(count)
    shares: list[list[StepIndices]] = []
    orders: list[list[int]] = []
    for rank in range(processes):
        sampler = StepSampler(lengths, 8, 500, processes, rank, shares=True)
        sampler.sampler = list(range(count))
        shares.append(list(sampler))
        assert len(sampler) == len(shares[rank]) == -(-count // 8)
    for step, of_ranks in enumerate(zip(*shares, strict=True)):
        pairs = list(range(count))[8 * step : 8 * step + 8]
        counted = dict.fromkeys(pairs, 0.0)
        assert len({max(pass_.number for pass_ in share.passes) for share in of_ranks}) == 1
        for rank, share in enumerate(of_ranks):
            for pair, pass_ in zip(share, share.passes, strict=True):
                assert pass_.pairs_in_step == len(pairs)
                counted[pair] += pass_.weight_of(rank) / max(1, pass_.sizes[rank]) / processes
        assert counted == pytest.approx(dict.fromkeys(pairs, 1 / len(pairs)))
        orders.append(sorted(pair for pair, weight in counted.items() if weight))
    assert [pair for order in orders for pair in order] == list(range(count))
