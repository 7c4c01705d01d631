"""What a number of held-out rows can show: intervals of an accuracy, and the smallest detectable difference.

This is plain arithmetic without any library, so that it can be used before anything is trained.
"""

import math
from statistics import NormalDist

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
