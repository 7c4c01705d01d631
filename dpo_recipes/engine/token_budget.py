"""Micro-batches by tokens: divides the rows of each optimizer step into as few as a token budget allows.

The trainer gets all rows of a step as one batch. Its data loader returns the micro-batches that one process computes.
Rows are assigned longest first, so that each process has the same number of micro-batches of about equal size. A step
has the same rows as with micro-batches of a fixed number of rows, and its loss is the mean over them. The losses differ
only if an epoch ends with a short micro-batch, whose rows the trainer weights more.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import Any

from torch.utils.data import BatchSampler, RandomSampler
from transformers.trainer_pt_utils import BatchRebalanceSampler

from dpo_recipes.engine.micro_batch import MicroBatch, RowIndices
from dpo_recipes.engine.prefix_sharing import is_worth_packing

MOST_PADDED = 3
"""The maximum of a micro-batch's padded positions, as a multiple of its budget.

The head gets hidden states in padded rows; a row of thousands of tokens must not pad a hundred short ones to its
length.
"""
Lengths = Sequence[tuple[int, ...]]
"""The number of tokens in the prompt and in each of the K answers of every row."""


class _Filling:
    """A group of rows to which rows are added, and its cost."""

    def __init__(self, max_tokens: int, *, shares: bool) -> None:
        self.places: list[int] = []
        self._max_tokens = max_tokens
        self._shares = shares
        self._distinct = self._width = 0

    def add(self, place: int, row: tuple[int, ...]) -> bool:
        """Add a row if it fits into the budget; the first one always does. Returns whether it was added."""
        prompt, *answers = row
        distinct = self._distinct + sum(row)
        width = max(self._width, prompt + max(answers))
        padded = len(answers) * (len(self.places) + 1) * width
        computed = distinct if self._shares and is_worth_packing(distinct, padded) else padded
        if self.places and (computed > self._max_tokens or padded > MOST_PADDED * self._max_tokens):
            return False
        self.places.append(place)
        self._distinct, self._width = distinct, width
        return True


def group_by_tokens(lengths: Lengths, max_tokens: int, *, shares: bool) -> list[list[int]]:
    """Groups of rows, by index, with at most `max_tokens` each; a longer row forms its own group.

    Rows are assigned longest first. `shares` says whether a row's prompt is computed once, without padding.
    """
    groups: list[_Filling] = []
    for place in _longest_first(lengths):
        if not groups or not groups[-1].add(place, lengths[place]):
            groups.append(_Filling(max_tokens, shares=shares))
            groups[-1].add(place, lengths[place])
    return [group.places for group in groups]


def largest_group(lengths: Lengths, max_tokens: int, max_rows: int, *, shares: bool) -> list[int]:
    """The rows, by index, of the largest micro-batch that can occur in a step of `max_rows`."""
    group = _Filling(max_tokens, shares=shares)
    for place in _longest_first(lengths):
        if group.add(place, lengths[place]) and len(group.places) == max_rows:
            break
    return group.places


def _longest_first(lengths: Lengths) -> list[int]:
    return sorted(range(len(lengths)), key=lambda place: -sum(lengths[place]))


def as_lengths(array: Any) -> Lengths:
    """The lengths of `data.lengths`, [rows, 1 + K] or [rows, K], as Python numbers."""
    return [tuple(row) for row in array.tolist()]


def shard_by_tokens(lengths: Lengths, max_tokens: int, num_processes: int, *, shares: bool) -> list[list[int]]:
    """The groups of `group_by_tokens` for several processes: the smallest multiple of their number, largest first.

    The groups have about equal size. If there are more groups than rows, the last ones are empty.
    """
    groups = group_by_tokens(lengths, max_tokens, shares=shares)
    if num_processes == 1:
        return groups
    count = -(-len(groups) // num_processes) * num_processes
    low, high = 1, max_tokens
    while low < high:  # finds the smallest budget that needs at most `count` groups
        middle = (low + high) // 2
        is_enough = len(group_by_tokens(lengths, middle, shares=shares)) <= count
        low, high = (low, middle) if is_enough else (middle + 1, high)
    groups = group_by_tokens(lengths, high, shares=shares)

    def num_tokens(group: list[int]) -> int:
        return sum(sum(lengths[place]) for place in group)

    while len(groups) < count and any(len(group) > 1 for group in groups):
        largest = max((group for group in groups if len(group) > 1), key=num_tokens)
        groups.remove(largest)
        groups += [largest[::2], largest[1::2]]
    empty: list[list[int]] = [[] for _ in range(count - len(groups))]
    return sorted(groups, key=num_tokens, reverse=True) + empty


class StepSampler(BatchRebalanceSampler):
    """Yields the share of one process in each optimizer step of an epoch.

    Only the type of the base class is used: transformers 5.23 treats such a sampler as one that knows its rank.
    """

    drop_last = False

    def __init__(
        self, lengths: Lengths, rows_per_step: int, max_tokens: int, num_processes: int, rank: int, *, shares: bool,
        trained: Sequence[tuple[int, ...]] | None = None,
    ) -> None:  # fmt: skip
        self.lengths = lengths
        self.trained = trained or [row[1:] for row in lengths]
        """The number of tokens of each answer in the loss; by default all tokens."""
        self.rows_per_step = rows_per_step
        self.max_tokens = max_tokens
        self.num_processes = num_processes
        self.rank = rank
        self.shares = shares
        self.sampler: Any = RandomSampler(range(len(self.lengths)))
        """The order of rows; accelerate replaces it by one that depends on the seed and the epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines the order of rows."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return math.ceil(len(self.lengths) / self.rows_per_step)

    def __iter__(self) -> Generator[RowIndices]:
        for rows in BatchSampler(self.sampler, self.rows_per_step, drop_last=False):
            yield self._share(rows)

    def _share(self, rows: list[int]) -> RowIndices:
        """The rows of this process in one step; a process without rows in a micro-batch computes the step's first."""
        lengths = [self.lengths[row] for row in rows]
        groups = shard_by_tokens(lengths, self.max_tokens, self.num_processes, shares=self.shares)
        shares: list[tuple[MicroBatch, list[int]]] = []
        for number in range(len(groups) // self.num_processes):
            of_all = groups[number * self.num_processes : (number + 1) * self.num_processes]
            by_rank = [[rows[place] for place in group] for group in of_all]
            shares.append((self._micro_batch(number, by_rank, len(rows)), by_rank[self.rank] or rows[:1]))
        return RowIndices.of(shares)

    def _micro_batch(self, number: int, by_rank: list[list[int]], rows_in_step: int) -> MicroBatch:
        """The micro-batch of some rows. Each row of the step counts the same: the trainer averages gradients over
        processes and adds those of the step's micro-batches."""
        sizes = tuple(map(len, by_rank))
        trained = [self.trained[row] for own in by_rank for row in own]
        return MicroBatch(
            number,
            sizes,
            tuple(size * len(sizes) / rows_in_step for size in sizes),
            (1.0,) * len(sizes),
            num_tokens=tuple(map(sum, zip(*trained, strict=True))),
        )
