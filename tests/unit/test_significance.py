"""Intervals and detectable differences against values that are derived here or published elsewhere."""

from __future__ import annotations

import pytest

from dpo_recipes.significance import (
    accuracy_interval,
    difference_interval,
    interval_half_width,
    pooled_spread,
    rows_for_half_width,
    smallest_difference,
    t_quantile,
)


def test_wilson_interval_stays_within_bounds() -> None:
    assert accuracy_interval(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-3)
    assert accuracy_interval(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-3)


@pytest.mark.parametrize(
    ("num_pairs", "half_width"), [(1, 0.44538), (10, 0.26341), (100, 0.09617), (381, 0.04996), (1000, 0.03093)]
)
def test_the_widest_half_of_an_interval(num_pairs: int, half_width: float) -> None:
    """z / (2 √(n + z²)) with z² = 3.8416: of 100 pairs 1.96 / (2 · √103.8416) = 1.96 / 20.3805 = 0.09617."""
    assert interval_half_width(num_pairs) == pytest.approx(half_width, abs=1e-5)


def test_an_accuracy_of_one_half_has_the_widest_interval() -> None:
    for accuracy in (0.0, 0.1, 0.3, 0.49, 0.7, 1.0):
        low, high = accuracy_interval(accuracy, 50)
        assert (high - low) / 2 < interval_half_width(50)


@pytest.mark.parametrize(("half_width", "num_pairs"), [(0.05, 381), (0.1, 93), (0.03, 1064), (0.01, 9601)])
def test_the_fewest_pairs_for_a_half_width(half_width: float, num_pairs: int) -> None:
    """(1.96 / 0.1)² − 3.8416 = 384.16 − 3.8416 = 380.3 for ± 5 points, so 381 pairs; one fewer is not enough."""
    assert rows_for_half_width(half_width) == num_pairs
    assert interval_half_width(num_pairs) <= half_width < interval_half_width(num_pairs - 1)


def test_the_difference_that_unpaired_models_must_have() -> None:
    """(1.96 + 0.8416)² · 2 · ¼ / δ² = 7.849 · 0.5 / 0.01 = 392.4 pairs for each model show 10 points."""
    assert smallest_difference(392.4) == pytest.approx(0.1, abs=1e-4)
    assert smallest_difference(4 * 392.4) == pytest.approx(0.05, abs=1e-4)


def test_the_difference_that_paired_models_must_have() -> None:
    """Connor's formula with d = 0.2 and δ = 0.1: (1.96 · 0.44721 + 0.84162 · √0.19)² / 0.01 = 1.24339² / 0.01 = 154.6.

    The calculator at powerandsamplesize.com (McNemar, p01 = 0.45, p10 = 0.05, two-sided 5%, power 0.8) gives 23 pairs
    for d = 0.5 and δ = 0.4: 22 pairs are too few for it.
    """
    assert smallest_difference(154.6, disagreement=0.2) == pytest.approx(0.1, abs=1e-4)
    assert smallest_difference(23, disagreement=0.5) <= 0.4 < smallest_difference(22, disagreement=0.5)


def test_the_same_pairs_show_more_than_pairs_of_their_own() -> None:
    for num_pairs in (20, 100, 381, 5000):
        assert smallest_difference(num_pairs, disagreement=0.2) < smallest_difference(num_pairs)


@pytest.mark.parametrize("num_pairs", [1, 2, 3, 5])
def test_a_handful_of_pairs_shows_nothing_beyond_what_is_possible(num_pairs: int) -> None:
    assert 0 < smallest_difference(num_pairs) <= 1
    assert 0 < smallest_difference(num_pairs, disagreement=0.2) <= 0.2


def test_the_interval_of_a_difference_is_that_of_newcombes_table() -> None:
    """Newcombe 1998, table II, example (a): 56 of 70 against 48 of 80, method 10."""
    low, high = difference_interval(56 / 70, 70, 48 / 80, 80)
    assert (low, high) == (pytest.approx(0.0524, abs=1e-4), pytest.approx(0.3339, abs=1e-4))


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.7062), (4, 2.7764), (20, 2.0860), (21, 2.0796), (30, 2.0423), (120, 1.9799)]
)
def test_quantiles_of_the_t_distribution(degrees: int, quantile: float) -> None:
    """Table 26.10 of Abramowitz and Stegun has 12.706, 2.776, 2.086, 2.080, 2.042 and 1.980."""
    assert t_quantile(degrees) == pytest.approx(quantile, abs=1e-4)


def test_repeated_values_have_a_pooled_spread() -> None:
    """Squares around the means: 1 + 0 + 1 of (1, 2, 3), 1 + 1 of (4, 6), so 4 over 2 + 1 degrees of freedom."""
    spread = pooled_spread([[1, 2, 3], [5], [4, 6]])
    assert spread is not None
    assert (spread.deviation, spread.degrees) == (pytest.approx((4 / 3) ** 0.5), 3)
    assert spread.half_width(4) == pytest.approx(3.1824 * (4 / 3) ** 0.5 / 2)
    assert spread.half_width(2, 2) == pytest.approx(3.1824 * (4 / 3) ** 0.5)
    assert pooled_spread([[1], [2], []]) is None
