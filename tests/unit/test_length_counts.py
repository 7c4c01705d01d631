"""The correlation of margins and length differences is Pearson's, however the pairs are divided."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dpo_recipes.engine.length_counts import LengthCounts

ONE_PROCESS = SimpleNamespace(device=torch.device("cpu"), num_processes=1)


def test_the_correlation_is_pearsons_over_all_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    longer_by = torch.randint(-40, 40, (30,), generator=generator)
    margins = 0.02 * longer_by + torch.randn(30, generator=generator)
    counts = LengthCounts(ONE_PROCESS)
    for part in (slice(0, 7), slice(7, 30)):
        counts.add(margins[part], longer_by[part])
    expected = np.corrcoef(margins.double().numpy(), longer_by.numpy())[0, 1]
    assert counts.take_correlation() == pytest.approx(expected, abs=1e-9)
    assert counts.take_correlation() is None  # nothing was counted since


def test_margins_that_differ_by_rounding_and_equal_lengths_have_none() -> None:
    counts = LengthCounts(ONE_PROCESS)
    counts.add(torch.tensor([1e-6, 0.0, -1e-6]), torch.tensor([3, 2, 1]))
    assert counts.take_correlation() is None
    counts.add(torch.tensor([1.0, 0.0, -1.0]), torch.tensor([2, 2, 2]))
    assert counts.take_correlation() is None
    counts.add(torch.tensor([1.0, 0.0, -1.0]), torch.tensor([3, 2, 1]))
    assert counts.take_correlation() == pytest.approx(1.0)
