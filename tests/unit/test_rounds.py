"""Pairs are dealt to processes so that every step is the one of a single process."""

from __future__ import annotations

import pytest

from dpo_recipes.engine.rounds import Round, Rounds, shard_batches


def _batches(num_pairs: int, size: int) -> list[list[int]]:
    return [list(range(start, min(start + size, num_pairs))) for start in range(0, num_pairs, size)]


def test_even_rounds_weigh_one() -> None:
    rounds = Rounds(num_pairs=16, micro_batch=2, accumulation=2, num_processes=2)
    assert len(rounds) == 4
    assert [rounds[number] for number in range(4)] == [Round((2, 2), 1.0)] * 4


def test_a_last_step_with_a_short_and_a_missing_micro_batch() -> None:
    # 13 pairs in micro-batches of 2 are 7, of which 4 make a step: the last step has 3, the third of one pair.
    # One process: (b5 + b6 + b7) / 3. Two: rounds (b5, b6), (b7, none), each loss / 2, mean of 2: 4 / 3 makes it 1 / 3.
    rounds = Rounds(num_pairs=13, micro_batch=2, accumulation=2, num_processes=2)
    assert [rounds[number] for number in range(4)] == [
        Round((2, 2), 1.0),
        Round((2, 2), 1.0),
        Round((2, 2), 4 / 3),
        Round((1, 0), 4 / 3),
    ]
    assert rounds[3].weight_of(1) == 0.0
    assert not rounds[3].is_even


def test_a_mean_over_weighted_rows_is_the_mean_of_the_micro_batches() -> None:
    # Micro-batches [1, 5] and [9]: their means are 3 and 9, and the mean of these is 6. Rows: ¾ (1 + 5) + 3/2 · 9 = 18.
    round_ = Round((2, 1, 0))
    rows = [[1.0, 5.0], [9.0], []]
    weighted = [value * round_.row_weight(rank) for rank, values in enumerate(rows) for value in values]
    assert round_.num_batches == 2
    assert sum(weighted) / len(weighted) == 6.0


@pytest.mark.parametrize("num_pairs", [1, 2, 7, 12, 13, 40, 41])
@pytest.mark.parametrize("processes", [1, 2, 3, 4])
@pytest.mark.parametrize(("micro", "accumulation"), [(1, 1), (2, 3), (4, 2)])
def test_steps_are_those_of_one_process(num_pairs: int, processes: int, micro: int, accumulation: int) -> None:
    """Σ over ranks and rounds of weight / (rounds of the step × W) is 1 / (micro-batches of the step) for each."""
    alone = _batches(num_pairs, micro)
    rounds = Rounds(num_pairs, micro, accumulation, processes)
    dealt = [list(shard_batches(alone, rounds, rank)) for rank in range(processes)]
    assert {len(batches) for batches in dealt} == {len(rounds)}
    seen = []
    for start in range(0, len(rounds), accumulation):
        of_step = range(start, min(start + accumulation, len(rounds)))
        expected = alone[start * processes : (start + accumulation) * processes]
        for number in of_step:
            for rank in range(processes):
                batch, weight = dealt[rank][number], dealt[rank][number].round.weight_of(rank)
                if weight:
                    assert weight / (len(of_step) * processes) == pytest.approx(1 / len(expected))
                    assert batch.round.sizes[rank] == len(batch)
                    seen.append(list(batch))
    assert seen == alone


@pytest.mark.parametrize("num_pairs", [7, 12, 13, 41])
@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_the_micro_batches_are_those_of_one_process_in_the_same_order(num_pairs: int, processes: int) -> None:
    """The k-th micro-batch of an epoch has the same pairs for any number of processes, also the last and shorter one.

    A loss that compares the rows of a micro-batch depends on it."""
    alone = _batches(num_pairs, 4)
    rounds = Rounds(num_pairs, 4, 2, processes)
    of_rank = [list(shard_batches(alone, rounds, rank)) for rank in range(processes)]
    in_order = [of_rank[k % processes][k // processes] for k in range(len(alone))]
    assert in_order == alone
    weights = [batches[-1].round.weight_of(rank) for rank, batches in enumerate(of_rank)]
    idle = len(rounds) * processes - len(alone)
    assert [weight == 0.0 for weight in weights] == [rank >= processes - idle for rank in range(processes)]
