"""Correlates the margins of held-out pairs with how much longer the chosen answer is."""

from __future__ import annotations

import math
from typing import Any

import torch

from dpo_recipes.engine.metric_counts import dtype_of_sums

LENGTH_CORRELATION = "length_correlation"
"""The name in the rows of evaluations, after `eval_`."""
_LEAST_DEVIATION = 1e-3
"""Margins that vary less, such as those of the base over itself, differ by rounding."""


class LengthCounts:
    """Sums over the pairs of an evaluation, for Pearson's correlation. Processes count separately and add up their sums
    at the end, so that no division into processes or micro-batches changes it."""

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator
        self._dtype = dtype_of_sums(accelerator.device)
        self.clear()

    def add(self, margins: torch.Tensor, longer_by: torch.Tensor) -> None:
        """Add pairs by their margins, [B], and the tokens by which the chosen answer is longer, [B]."""
        m, d = margins.detach().to(self._dtype), longer_by.to(self._dtype)
        self._sums += torch.stack([torch.ones_like(m), m, d, m * m, d * d, m * d]).sum(dim=1)

    def take_correlation(self) -> float | None:
        """The correlation, and 0 as the new counts; None if the margins or the lengths do not differ. All processes
        must call this."""
        sums = self._sums
        if self._accelerator.num_processes > 1:
            sums = self._accelerator.reduce(sums, reduction="sum")
        count, m, d, mm, dd, md = sums.tolist()
        self.clear()
        if not count:
            return None
        margin_variance, length_variance = mm / count - (m / count) ** 2, dd / count - (d / count) ** 2
        if margin_variance < _LEAST_DEVIATION**2 or length_variance <= 0.0:
            return None
        return (md / count - m * d / count**2) / math.sqrt(margin_variance * length_variance)

    def clear(self) -> None:
        """Discard the counts of an evaluation that was interrupted."""
        self._sums = torch.zeros(6, dtype=self._dtype, device=self._accelerator.device)
