"""What a number of held-out rows or of repeated runs can show: intervals, and the smallest detectable difference.

This is plain arithmetic without any library, so that it can be used before anything is trained.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, variance

Z_95 = 1.96
"""Standard deviations that a two-sided 95% interval reaches to each side."""
POWER = 0.8
"""The power of the test: how often it should find an existing difference, by convention 80 % (Cohen 1988)."""


def accuracy_interval(accuracy: float, num_rows: float, z: float = Z_95) -> tuple[float, float]:
    """The 95% Wilson interval of a share seen on `num_rows` rows (Wilson 1927)."""
    spread = z * math.sqrt(accuracy * (1 - accuracy) / num_rows + z**2 / (4 * num_rows**2))
    centre = accuracy + z**2 / (2 * num_rows)
    scale = 1 + z**2 / num_rows
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def difference_interval(first: float, num_first: float, second: float, num_second: float) -> tuple[float, float]:
    """The 95% interval of the difference `first` - `second` of two shares, each seen on rows of its own, from their
    Wilson intervals (Newcombe 1998, Statistics in Medicine 17:873, method 10)."""
    (low_1, high_1), (low_2, high_2) = accuracy_interval(first, num_first), accuracy_interval(second, num_second)
    difference = first - second
    below, above = math.hypot(first - low_1, high_2 - second), math.hypot(high_1 - first, second - low_2)
    return difference - below, difference + above


def interval_half_width(num_rows: float) -> float:
    """Half of the widest 95% Wilson interval on `num_rows` rows, that of an accuracy of one half."""
    low, high = accuracy_interval(0.5, num_rows)
    return (high - low) / 2


def rows_for_half_width(half_width: float) -> int:
    """The fewest rows on which no 95% Wilson interval reaches farther than `half_width` to each side.

    At an accuracy of one half, Wilson's half-width is z / (2 √(n + z²)), which gives n = (z / 2w)² − z².
    """
    return math.ceil((Z_95 / (2 * half_width)) ** 2 - Z_95**2)


def smallest_difference(num_rows: float, *, disagreement: float | None = None) -> float:
    """The least difference of two accuracies that a two-sided test at 5% finds four times in five.

    Without `disagreement`, each model is measured on `num_rows` rows of its own, unpaired: both shares are taken to
    vary as one half does, the most there is, so that the difference is (z_a + z_b) √(2 · ¼ / n).
    With it, both are measured on the same rows, paired, and rank that share of them differently (McNemar's test).
    Connor (1987, Biometrics 43, page 209) needs n = (z_a √d + z_b √(d − δ²))² / δ² rows; solved for δ here. The result
    is at most 1, or at most `disagreement`, which says that so few rows cannot show any difference so reliably.
    """
    z_power = NormalDist().inv_cdf(POWER)
    if disagreement is None:
        return min(1.0, (Z_95 + z_power) * math.sqrt(0.5 / num_rows))
    root = math.sqrt(max(0.0, num_rows + z_power**2 - Z_95**2))
    difference = math.sqrt(disagreement) * (Z_95 * math.sqrt(num_rows) + z_power * root) / (num_rows + z_power**2)
    return min(disagreement, difference)


_T_95 = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
)  # fmt: skip
"""The 97.5% quantiles of Student's t distribution with 1, 2, ... degrees of freedom."""


def t_quantile(degrees: int) -> float:
    """Half-width of a two-sided 95% interval of a mean, in standard errors, with so many degrees of freedom.

    Above 20, the first terms of the expansion by 1/degrees (Abramowitz and Stegun, 26.7.5), exact to 1e-5.
    """
    if degrees <= len(_T_95):
        return _T_95[degrees - 1]
    z = NormalDist().inv_cdf(0.975)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3


@dataclass(frozen=True)
class Spread:
    """How much values vary that were measured repeatedly under the same conditions."""

    deviation: float
    degrees: int
    """Degrees of freedom of the standard deviation."""

    def half_width(self, *counts: int) -> float:
        """Half of the 95% interval of a mean of so many values, or with two counts of the difference of two means."""
        return t_quantile(self.degrees) * self.deviation * math.sqrt(sum(1 / count for count in counts))


def pooled_spread(groups: Iterable[Sequence[float]]) -> Spread | None:
    """The common spread of several groups of repeated values; None if no group has two values."""
    squares, degrees = 0.0, 0
    for group in groups:
        if len(group) > 1:
            squares += variance(group) * (len(group) - 1)
            degrees += len(group) - 1
    return Spread(math.sqrt(squares / degrees), degrees) if degrees else None
