"""The order of prompts: each optimizer step's prompts several times in a row, if their answers serve several steps."""

from __future__ import annotations

from collections.abc import Iterator

import torch


class StepsSampler(torch.utils.data.Sampler[int]):
    """The indices of an epoch, in an order that depends on the seed and the epoch alone.

    With several `iterations`, the rows of each whole step are repeated that number of times, and rows that do not fill
    a step are left out.
    """

    def __init__(self, num_rows: int, rows_per_step: int, iterations: int, seed: int) -> None:
        self.num_rows = num_rows
        self.rows_per_step = rows_per_step
        self.iterations = iterations
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines the order."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.iterations == 1:
            return self.num_rows
        return self.num_rows // self.rows_per_step * self.rows_per_step * self.iterations

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.num_rows, generator=generator).tolist()
        if self.iterations == 1:
            yield from order
            return
        for start in range(0, self.num_rows - self.rows_per_step + 1, self.rows_per_step):
            for _ in range(self.iterations):
                yield from order[start : start + self.rows_per_step]
