"""Micro-batches: the rows that all processes compute at the same time, and how each row counts in an optimizer step.

A row is a prompt with its answers. Micro-batches have a fixed number of rows (this module) or as many rows as a token
budget allows (engine/token_budget.py). Either way every optimizer step equals the one of a single process.

With a fixed number of rows, one process takes the batches of an epoch in turn, and of W processes, process r computes
batch k·W + r in micro-batch k. At the end of an epoch some processes have no rows, or fewer. accelerate 1.15 would fill
up with rows from the start of the epoch, which then count twice. Here a process without rows computes a row with weight
zero, so that all processes take part in every exchange, and the others get a higher weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import distributed

MICRO_BATCH = "micro_batch"
"""The key under which a row or a batch carries its `MicroBatch`."""
MICRO_BATCHES = "micro_batches"
"""The key of all micro-batches of an optimizer step, if the trainer's batch is the whole step."""


@dataclass(frozen=True)
class MicroBatch:
    """The rows that the processes compute at the same time, and how they count."""

    number: int
    """Its index among those that a process gets: of an epoch, or of a step with a token budget."""
    sizes: tuple[int, ...]
    """The number of rows of each process; 0 for a process without rows, which computes a row that does not count."""
    loss_weights: tuple[float, ...]
    """The factor of each process's loss, a mean over its rows, with which the step equals that of one process.

    transformers averages gradients over processes.
    """
    row_weights: tuple[float, ...]
    """The factor of each process's rows with which the mean over all rows equals that of one process."""
    num_batches: int = 1
    """The number of batches of a single process that it stands for: in metrics it counts as often."""
    num_tokens: tuple[int, ...] | None = None
    """For each answer of a row, the number of its trained tokens in all processes. None for a fixed number of rows."""

    @property
    def is_even(self) -> bool:
        """Whether all processes have the same number of rows."""
        return len(set(self.sizes)) == 1

    def has_rows(self, rank: int) -> bool:
        """Whether what a process computes counts."""
        return self.sizes[rank] > 0

    def num_items(self, answers: tuple[int, ...] | None) -> int:
        """The number of items that a metric averages over: trained tokens of some answers, or rows."""
        if answers is None:
            return sum(self.sizes)
        assert self.num_tokens is not None, "only micro-batches of a token budget are weighed by tokens"
        return sum(self.num_tokens[answer] for answer in answers)


@dataclass(frozen=True)
class FixedSizeBatches:
    """The micro-batches of an epoch with a fixed number of rows for each process."""

    num_rows: int
    size: int
    """Rows of a process."""
    accumulation: int
    """Micro-batches of one optimizer step."""
    num_processes: int

    @property
    def num_batches(self) -> int:
        """The batches of the epoch, over all processes."""
        return math.ceil(self.num_rows / self.size)

    def __len__(self) -> int:
        return math.ceil(self.num_batches / self.num_processes)

    def __getitem__(self, number: int) -> MicroBatch:
        """A micro-batch by its index in the epoch.

        The trainer divides each process's loss by the step's micro-batches c and takes the mean over W processes; with
        n batches in the step, n < c·W at an epoch's end, each must count c·W / n times to count 1 / n.
        """
        first = number * self.num_processes
        sizes = tuple(self._size(first + rank) for rank in range(self.num_processes))
        step = number // self.accumulation
        places = min(self.accumulation, len(self) - step * self.accumulation) * self.num_processes
        weight = places / min(places, self.num_batches - step * self.accumulation * self.num_processes)
        num_batches = sum(size > 0 for size in sizes)
        return MicroBatch(
            number,
            sizes,
            tuple(weight if size else 0.0 for size in sizes),
            # A single process takes the mean of each batch, in which a row of a short one weighs more.
            tuple(sum(sizes) / (num_batches * max(1, size)) for size in sizes),
            num_batches,
        )

    def _size(self, batch: int) -> int:
        return max(0, min(self.size, self.num_rows - batch * self.size))


class RowIndices(list[int]):
    """The indices of the rows that one process computes, in the order of their micro-batches."""

    micro_batches: list[MicroBatch]
    """The micro-batch of each row."""

    @classmethod
    def of(cls, rows: Iterable[tuple[MicroBatch, list[int]]]) -> RowIndices:
        """The rows of some micro-batches."""
        indices = cls()
        indices.micro_batches = []
        for micro_batch, own in rows:
            indices += own
            indices.micro_batches += [micro_batch] * len(own)
        return indices


def shard_batches(batches: Iterable[list[int]], epoch: FixedSizeBatches, rank: int) -> Iterator[RowIndices]:
    """The rows of one process in each micro-batch of an epoch, from the batches of a single process."""
    all_batches = iter(batches)
    for number in range(len(epoch)):
        of_all = [batch for _, batch in zip(range(epoch.num_processes), all_batches, strict=False)]
        yield RowIndices.of([(epoch[number], of_all[rank] if rank < len(of_all) else of_all[0][:1])])


class BatchesOfRank:
    """The rows of one process, from a sampler of the batches of a single one. It replaces accelerate's own."""

    drop_last = False

    def __init__(self, batches: Any, epoch: FixedSizeBatches, rank: int) -> None:
        self.batches = batches
        self.epoch = epoch
        self.rank = rank
        self.batch_size = epoch.size

    @property
    def sampler(self) -> Any:
        """The sampler on which accelerate and transformers set the epoch, which determines the order."""
        return self.batches.sampler

    @sampler.setter
    def sampler(self, sampler: Any) -> None:
        self.batches.sampler = sampler

    def __len__(self) -> int:
        return len(self.epoch)

    def __iter__(self) -> Iterator[RowIndices]:
        return shard_batches(self.batches, self.epoch, self.rank)


class RowsOfRank(torch.utils.data.Dataset[dict[str, Any]]):
    """A dataset whose rows carry the micro-batch for which they were requested."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]

    def __getitems__(self, indices: RowIndices) -> list[dict[str, Any]]:
        """The rows of one or several micro-batches."""
        requested = zip(indices, indices.micro_batches, strict=True)
        return [{**self.rows[index], MICRO_BATCH: micro_batch} for index, micro_batch in requested]


@dataclass(frozen=True)
class MicroBatchCollator:
    """A collator of rows that carry their micro-batch, which it moves to the batch."""

    collate: Any
    of_step: bool = False
    """Whether the rows are those of a whole step, whose batches are returned under `MICRO_BATCHES`."""

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The batch or the batches of some rows."""
        batches = [self._collate(list(own)) for _, own in groupby(rows, key=lambda row: row[MICRO_BATCH].number)]
        if self.of_step:
            return {MICRO_BATCHES: batches}
        (batch,) = batches
        return batch

    def _collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        micro_batch = rows[0][MICRO_BATCH]
        plain = [{name: value for name, value in row.items() if name != MICRO_BATCH} for row in rows]
        return {**self.collate(plain), MICRO_BATCH: micro_batch}


def gather_uneven(tensor: torch.Tensor, sizes: tuple[int, ...], rank: int) -> torch.Tensor:
    """The values of all processes in order: one for each row of a process, or its single number if it has rows.

    accelerate's own `gather` requires the same number of rows from each.
    """
    counts = sizes if tensor.ndim else tuple(min(1, size) for size in sizes)
    rows = tensor.reshape(1) if not tensor.ndim else tensor
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: counts[rank]] = rows[: counts[rank]]
    parts = [torch.empty_like(padded) for _ in counts]
    distributed.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
