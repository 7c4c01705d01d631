"""Rows are assigned to processes so that every step is the one of a single process."""

from __future__ import annotations

from typing import Any

import pytest

from dpo_recipes.engine.micro_batch import (
    MICRO_BATCH,
    MICRO_BATCHES,
    FixedSizeBatches,
    MicroBatch,
    MicroBatchCollator,
    RowIndices,
    RowsOfRank,
    shard_batches,
)


def _batches(num_rows: int, size: int) -> list[list[int]]:
    return [list(range(start, min(start + size, num_rows))) for start in range(0, num_rows, size)]


def test_even_micro_batches_weigh_one() -> None:
    epoch = FixedSizeBatches(num_rows=16, size=2, accumulation=2, num_processes=2)
    assert len(epoch) == 4
    ones = (1.0, 1.0)
    assert [epoch[number] for number in range(4)] == [MicroBatch(n, (2, 2), ones, ones, 2) for n in range(4)]


def test_a_last_step_with_a_short_and_a_missing_batch() -> None:
    # 13 rows in batches of 2 are 7, of which 4 make a step: the last step has 3, the third of one row.
    # One process: (b5 + b6 + b7) / 3. Two: (b5, b6), then (b7, none), each loss / 2, mean of 2: 4 / 3 makes it 1 / 3.
    epoch = FixedSizeBatches(num_rows=13, size=2, accumulation=2, num_processes=2)
    assert [epoch[number].sizes for number in range(4)] == [(2, 2), (2, 2), (2, 2), (1, 0)]
    assert [epoch[number].loss_weights for number in range(4)] == [(1, 1), (1, 1), (4 / 3, 4 / 3), (4 / 3, 0)]
    assert [epoch[number].num_batches for number in range(4)] == [2, 2, 2, 1]
    assert [epoch[3].has_rows(rank) for rank in (0, 1)] == [True, False]
    assert [epoch[number].is_even for number in (2, 3)] == [True, False]


def test_a_mean_over_weighted_rows_is_the_mean_of_the_batches() -> None:
    # Batches [1, 5] and [9]: their means are 3 and 9, and the mean of these is 6. Rows: ¾ (1 + 5) + 3/2 · 9 = 18.
    micro_batch = FixedSizeBatches(num_rows=3, size=2, accumulation=1, num_processes=3)[0]
    rows = [[1.0, 5.0], [9.0], []]
    weighted = [value * micro_batch.row_weights[rank] for rank, values in enumerate(rows) for value in values]
    assert (micro_batch.sizes, micro_batch.num_batches) == ((2, 1, 0), 2)
    assert sum(weighted) / len(weighted) == 6.0


def test_a_metric_averages_over_rows_or_over_the_tokens_of_some_answers() -> None:
    ones = (1.0, 1.0)
    micro_batch = MicroBatch(0, (2, 1), ones, ones, num_tokens=(10, 4, 7))
    assert [micro_batch.num_items(answers) for answers in (None, (0,), (1, 2))] == [3, 10, 11]


@pytest.mark.parametrize("num_rows", [1, 2, 7, 12, 13, 40, 41])
@pytest.mark.parametrize("processes", [1, 2, 3, 4])
@pytest.mark.parametrize(("size", "accumulation"), [(1, 1), (2, 3), (4, 2)])
def test_steps_are_those_of_one_process(num_rows: int, processes: int, size: int, accumulation: int) -> None:
    """Σ over ranks and micro-batches of weight / (micro-batches of the step × W) is 1 / (batches of the step)."""
    alone = _batches(num_rows, size)
    epoch = FixedSizeBatches(num_rows, size, accumulation, processes)
    of_ranks = [list(shard_batches(alone, epoch, rank)) for rank in range(processes)]
    assert {len(shares) for shares in of_ranks} == {len(epoch)}
    seen = []
    for start in range(0, len(epoch), accumulation):
        of_step = range(start, min(start + accumulation, len(epoch)))
        expected = alone[start * processes : (start + accumulation) * processes]
        for number in of_step:
            for rank in range(processes):
                share = of_ranks[rank][number]
                (micro_batch,) = set(share.micro_batches)
                if micro_batch.has_rows(rank):
                    weight = micro_batch.loss_weights[rank]
                    assert weight / (len(of_step) * processes) == pytest.approx(1 / len(expected))
                    assert micro_batch.sizes[rank] == len(share)
                    seen.append(list(share))
                else:
                    assert (len(share), micro_batch.loss_weights[rank]) == (1, 0.0)
    assert seen == alone


@pytest.mark.parametrize("num_rows", [7, 12, 13, 41])
@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_batches_are_those_of_one_process_in_the_same_order(num_rows: int, processes: int) -> None:
    """The k-th batch of an epoch has the same rows for any number of processes, also the last and shorter one.

    A loss that compares the rows of a micro-batch depends on it."""
    alone = _batches(num_rows, 4)
    epoch = FixedSizeBatches(num_rows, 4, 2, processes)
    of_rank = [list(shard_batches(alone, epoch, rank)) for rank in range(processes)]
    in_order = [of_rank[k % processes][k // processes] for k in range(len(alone))]
    assert in_order == alone
    idle = len(epoch) * processes - len(alone)
    has_rows = [shares[-1].micro_batches[0].has_rows(rank) for rank, shares in enumerate(of_rank)]
    assert has_rows == [rank < processes - idle for rank in range(processes)]


def test_rows_carry_their_micro_batch_to_the_batch() -> None:
    """Two micro-batches of a step that are equal but for their number stay apart."""
    ones = (1.0,)
    first, second = (MicroBatch(number, (2,), ones, ones) for number in (0, 1))
    indices = RowIndices.of([(first, [3, 0]), (second, [1, 2])])
    rows = RowsOfRank([{"id": number} for number in range(4)]).__getitems__(indices)

    def collate(plain: list[dict[str, Any]]) -> dict[str, Any]:
        assert all(row.keys() == {"id"} for row in plain)
        return {"ids": [row["id"] for row in plain]}

    batches = [{"ids": [3, 0], MICRO_BATCH: first}, {"ids": [1, 2], MICRO_BATCH: second}]
    assert MicroBatchCollator(collate, of_step=True)(rows) == {MICRO_BATCHES: batches}
    assert MicroBatchCollator(collate)(rows[:2]) == batches[0]
