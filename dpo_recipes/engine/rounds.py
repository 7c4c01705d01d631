"""Decides which pairs each process computes, so that every optimizer step equals the one of a single process.

One process takes the micro-batches of an epoch in turn. Several processes take them in rounds: in round k, process r
computes micro-batch k·W + r. At the end of an epoch some have no micro-batch, or a shorter one. accelerate 1.15 would
fill up with pairs from the start of the epoch, which then count twice. Here a process without a micro-batch computes a
pair with weight zero, so that all processes take part in every exchange, and the others get a higher weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

ROUND = "round"
"""The key under which a batch carries its `Round`."""


@dataclass(frozen=True)
class Round:
    """One micro-batch of each process."""

    sizes: tuple[int, ...]
    """Pairs of each process; 0 for a process that computes a pair with weight zero."""
    weight: float = 1.0
    """The factor of a process's loss with which the step's mean over micro-batches equals that of one process."""

    @property
    def is_even(self) -> bool:
        """Whether all processes have equally many pairs."""
        return len(set(self.sizes)) == 1

    @property
    def num_batches(self) -> int:
        """The number of micro-batches in it."""
        return sum(size > 0 for size in self.sizes)

    def row_weight(self, rank: int) -> float:
        """The factor of a process's rows with which the mean over all rows equals the mean of the micro-batches."""
        return sum(self.sizes) / (self.num_batches * max(1, self.sizes[rank]))

    def weight_of(self, rank: int) -> float:
        """The factor of one process's loss."""
        return self.weight if self.sizes[rank] else 0.0


@dataclass(frozen=True)
class Rounds:
    """The rounds of an epoch of `num_pairs` pairs."""

    num_pairs: int
    micro_batch: int
    accumulation: int
    """Rounds of one optimizer step."""
    num_processes: int

    @property
    def num_batches(self) -> int:
        """Micro-batches of the epoch, over all processes."""
        return math.ceil(self.num_pairs / self.micro_batch)

    def __len__(self) -> int:
        return math.ceil(self.num_batches / self.num_processes)

    def __getitem__(self, number: int) -> Round:
        """The sizes and weight of a round.

        The trainer divides each process's loss by the step's rounds c and takes the mean over W processes; with n
        micro-batches in the step, n < c·W at an epoch's end, each must count c·W / n times to count 1 / n.
        """
        first = number * self.num_processes
        sizes = (self._size(first + rank) for rank in range(self.num_processes))
        step = number // self.accumulation
        rounds = min(self.accumulation, len(self) - step * self.accumulation)
        places = rounds * self.num_processes
        batches = min(places, self.num_batches - step * self.accumulation * self.num_processes)
        return Round(tuple(sizes), places / batches)

    def _size(self, batch: int) -> int:
        return max(0, min(self.micro_batch, self.num_pairs - batch * self.micro_batch))


class Indices(list[int]):
    """The pairs of one process's micro-batch, with their round."""

    round: Round


class BatchesOfRank:
    """The micro-batches of one process, from a sampler of those of all. It replaces accelerate's own."""

    drop_last = False

    def __init__(self, batches: Any, rounds: Rounds, rank: int) -> None:
        self.batches = batches
        self.rounds = rounds
        self.rank = rank
        self.batch_size = rounds.micro_batch

    @property
    def sampler(self) -> Any:
        """The sampler on which accelerate and transformers set the epoch, which determines the order."""
        return self.batches.sampler

    @sampler.setter
    def sampler(self, sampler: Any) -> None:
        self.batches.sampler = sampler

    def __len__(self) -> int:
        return len(self.rounds)

    def __iter__(self) -> Iterator[Indices]:
        return shard_batches(self.batches, self.rounds, self.rank)


def shard_batches(batches: Iterable[list[int]], rounds: Rounds, rank: int) -> Iterator[Indices]:
    """The micro-batches of one process, with a single pair of weight zero if it has none."""
    all_batches = iter(batches)
    for number in range(len(rounds)):
        of_round = [batch for _, batch in zip(range(rounds.num_processes), all_batches, strict=False)]
        indices = Indices(of_round[rank] if rank < len(of_round) else of_round[0][:1])
        indices.round = rounds[number]
        yield indices


class RowsOfRank(torch.utils.data.Dataset[dict[str, Any]]):
    """A dataset whose rows carry the round for which they were requested."""

    def __init__(self, pairs: Any) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.pairs[index]

    def __getitems__(self, indices: Any) -> list[dict[str, Any]]:
        """The rows of a micro-batch."""
        return [{**self.pairs[index], ROUND: indices.round} for index in indices]


@dataclass(frozen=True)
class RoundCollator:
    """A collator that moves the round from the rows to the batch."""

    collate: Any

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The batch of some rows of one round."""
        round_ = rows[0][ROUND]
        return {**self.collate([{k: v for k, v in row.items() if k != ROUND} for row in rows]), ROUND: round_}


def gather_uneven(tensor: torch.Tensor, sizes: tuple[int, ...], rank: int) -> torch.Tensor:
    """The values of all processes in order: one row for each pair of a process, or its single number if it has pairs.

    accelerate's own `gather` requires the same number of rows from each.
    """
    counts = sizes if tensor.ndim else tuple(min(1, size) for size in sizes)
    rows = tensor.reshape(1) if not tensor.ndim else tensor
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: counts[rank]] = rows[: counts[rank]]
    parts = [torch.empty_like(padded) for _ in counts]
    distributed.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
