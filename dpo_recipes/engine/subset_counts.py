"""Counts a metric of an evaluation for each subset of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dpo_recipes.engine.metric_counts import dtype_of_sums


class SubsetCounts:
    """For each subset, the sum of a metric over its rows and their number. Processes count separately and add up their
    sums at the end, so that no division into processes or micro-batches changes a mean."""

    def __init__(self, metric: str, names: Sequence[str], accelerator: Any) -> None:
        self._metric = metric
        self._names = names
        self._accelerator = accelerator
        self._dtype = dtype_of_sums(accelerator.device)
        self._counts = self._zeros()

    def _zeros(self) -> torch.Tensor:
        # The last row counts rows without a subset, whose number is -1.
        return torch.zeros(len(self._names) + 1, 2, dtype=self._dtype, device=self._accelerator.device)

    def add(self, numbers: torch.Tensor, values: torch.Tensor) -> None:
        """Add the values, [B], of rows whose subsets have the `numbers`, [B], with -1 for a row without one."""
        added = torch.stack([values, torch.ones_like(values)], dim=1).to(self._dtype)
        self._counts.index_add_(0, numbers % len(self._counts), added)

    def take_means(self) -> dict[str, float]:
        """The mean of each subset that has rows, as `metric/name`, and 0 as the new counts. All processes must call
        this."""
        counts = self._counts
        if self._accelerator.num_processes > 1:
            counts = self._accelerator.reduce(counts, reduction="sum")
        self.clear()
        of_names = zip(self._names, counts[:-1].tolist(), strict=True)
        return {f"{self._metric}/{name}": total / count for name, (total, count) in of_names if count}

    def clear(self) -> None:
        """Discard the counts of an evaluation that was interrupted."""
        self._counts = self._zeros()
