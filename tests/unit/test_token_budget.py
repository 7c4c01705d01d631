"""Rows of a step are grouped by their tokens, and counted as if they had come one by one."""

from __future__ import annotations

import random

import pytest

from dpo_recipes.engine.micro_batch import RowIndices
from dpo_recipes.engine.token_budget import StepSampler, group_by_tokens, largest_group, shard_by_tokens


def _lengths(count: int, seed: int = 0, answers: int = 2) -> list[tuple[int, ...]]:
    draw = random.Random(seed)
    return [(draw.randint(1, 300), *(draw.randint(1, 60) for _ in range(answers))) for _ in range(count)]


def _positions(lengths: list[tuple[int, ...]], *, shares: bool) -> int:
    width = max(prompt + max(answers) for prompt, *answers in lengths)
    distinct, padded = sum(map(sum, lengths)), (len(lengths[0]) - 1) * len(lengths) * width
    return distinct if shares and distinct <= 0.97 * padded else padded


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("max_tokens", [100, 800, 2000, 10**6])
@pytest.mark.parametrize(("count", "answers"), [(1, 2), (7, 2), (64, 1), (64, 2), (64, 4)])
def test_each_row_is_in_one_group_within_the_budget(count: int, answers: int, max_tokens: int, shares: bool) -> None:
    lengths = _lengths(count, answers=answers)
    groups = group_by_tokens(lengths, max_tokens, shares=shares)
    assert sorted(place for group in groups for place in group) == list(range(count))
    for group in groups:
        assert len(group) == 1 or _positions([lengths[place] for place in group], shares=shares) <= max_tokens
    if max_tokens == 10**6:
        assert len(groups) == 1


def test_groups_are_well_filled() -> None:
    lengths = _lengths(200)
    groups = group_by_tokens(lengths, 2000, shares=True)
    assert len(groups) <= 1.2 * sum(map(sum, lengths)) / 2000


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("processes", [2, 3, 8])
@pytest.mark.parametrize("count", [1, 5, 16, 64])
def test_every_process_gets_equally_many_groups(count: int, processes: int, shares: bool) -> None:
    lengths = _lengths(count)
    groups = shard_by_tokens(lengths, 1000, processes, shares=shares)
    assert len(groups) % processes == 0
    assert len(groups) - len(group_by_tokens(lengths, 1000, shares=shares)) < processes
    assert sorted(place for group in groups for place in group) == list(range(count))
    for group in groups:
        assert len(group) < 2 or _positions([lengths[place] for place in group], shares=shares) <= 1000
    assert all(groups) or all(len(group) <= 1 for group in groups)


def test_groups_of_several_processes_are_of_about_equal_size() -> None:
    """15 pairs and one would be within the budget too, and one process would wait for the other."""
    groups = shard_by_tokens([(100, 20, 20)] * 16, 15 * 140, 2, shares=True)
    assert [len(group) for group in groups] == [8, 8]
    lengths = _lengths(64)
    sizes = [sum(sum(lengths[place]) for place in group) for group in shard_by_tokens(lengths, 2000, 4, shares=True)]
    assert max(sizes) <= 1.5 * min(sizes)


def test_one_long_row_does_not_make_long_rows_of_many_short_ones() -> None:
    """The head sees hidden states in padded rows, however few distinct tokens there are."""
    lengths = [(4000, 96, 96), *[(20, 10, 10)] * 60]
    assert sum(map(sum, lengths)) < 8000
    for group in group_by_tokens(lengths, 8000, shares=True):
        width = max(prompt + max(chosen, rejected) for prompt, chosen, rejected in (lengths[place] for place in group))
        assert 2 * len(group) * width <= 3 * 8000


def test_the_largest_group_is_no_smaller_than_any_that_comes() -> None:
    """What memory is planned by, and tried before the first step."""
    lengths = _lengths(500)
    largest = sum(sum(lengths[place]) for place in largest_group(lengths, 1000, 32, shares=True))
    for seed in range(50):
        drawn = random.Random(seed).sample(lengths, 32)
        assert all(
            sum(sum(drawn[place]) for place in group) <= largest for group in group_by_tokens(drawn, 1000, shares=True)
        )
    assert largest <= 1000
    assert len(largest_group(lengths, 10**6, 32, shares=True)) == 32


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("count", [6, 8, 29])
def test_each_row_of_a_step_counts_the_same_whatever_the_number_of_processes(count: int, processes: int) -> None:
    """Σ over micro-batches and ranks of weight · (mean over the rows), averaged over ranks, is the mean of the step."""
    lengths = _lengths(count)
    shares: list[list[RowIndices]] = []
    orders: list[list[int]] = []
    for rank in range(processes):
        sampler = StepSampler(lengths, 8, 500, processes, rank, shares=True)
        sampler.sampler = list(range(count))
        shares.append(list(sampler))
        assert len(sampler) == len(shares[rank]) == -(-count // 8)
    for step, of_ranks in enumerate(zip(*shares, strict=True)):
        pairs = list(range(count))[8 * step : 8 * step + 8]
        counted = dict.fromkeys(pairs, 0.0)
        numbers = {micro_batch.number: micro_batch for share in of_ranks for micro_batch in share.micro_batches}
        assert sum(sum(micro_batch.sizes) for micro_batch in numbers.values()) == len(pairs)
        assert len({max(micro_batch.number for micro_batch in share.micro_batches) for share in of_ranks}) == 1
        for rank, share in enumerate(of_ranks):
            for pair, micro_batch in zip(share, share.micro_batches, strict=True):
                counted[pair] += micro_batch.loss_weights[rank] / max(1, micro_batch.sizes[rank]) / processes
        assert counted == pytest.approx(dict.fromkeys(pairs, 1 / len(pairs)))
        orders.append(sorted(pair for pair, weight in counted.items() if weight))
    assert [pair for order in orders for pair in order] == list(range(count))
