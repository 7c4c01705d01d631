"""Estimates with 95% intervals from values of single prompts.

Prompts are the units that are drawn at random: a bootstrap draws prompts with replacement, and differences between two
models are taken prompt by prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from dpo_recipes.evaluate.result import Estimate
from dpo_recipes.significance import accuracy_interval, t_quantile

NUM_RESAMPLES = 1000
_SEED = 0
"""Intervals of the same values are always the same."""
Statistic = Callable[[np.ndarray], np.ndarray]
"""From weights of the shape [resamples, prompts], how often each prompt was drawn, to one value for each resample."""


def mean_estimate(values: Sequence[float] | np.ndarray) -> Estimate | None:
    """The mean with Student's interval. None without values."""
    array = np.asarray(values, np.float64)
    if not len(array):
        return None
    mean = float(array.mean())
    if len(array) == 1:
        return Estimate(value=mean, count=1)
    half = t_quantile(len(array) - 1) * float(array.std(ddof=1)) / math.sqrt(len(array))
    return Estimate(value=mean, low=mean - half, high=mean + half, count=len(array))


def share_estimate(is_true: Sequence[bool] | np.ndarray) -> Estimate | None:
    """The share of true values with Wilson's interval. None without values."""
    array = np.asarray(is_true, bool)
    if not len(array):
        return None
    share = float(array.mean())
    low, high = accuracy_interval(share, len(array))
    return Estimate(value=share, low=low, high=high, count=len(array))


def bootstrap_estimate(statistic: Statistic, count: int) -> Estimate | None:
    """A statistic of `count` prompts with the percentile interval of its bootstrap (Efron 1979). None without prompts.

    Resamples for which the statistic is NaN are left out.
    """
    if not count:
        return None
    value = float(statistic(np.ones((1, count)))[0])
    if math.isnan(value):
        return None
    if count == 1:
        return Estimate(value=value, count=1)
    drawn = statistic(_resample(count))
    drawn = drawn[~np.isnan(drawn)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Estimate(value=value, low=float(low), high=float(high), count=count)


def _resample(count: int) -> np.ndarray:
    generator = np.random.default_rng(_SEED)
    return generator.multinomial(count, np.full(count, 1 / count), size=NUM_RESAMPLES).astype(np.float64)


def ratio_statistic(numerators: Sequence[float], denominators: Sequence[float]) -> Statistic:
    """The sum of the numerators divided by that of the denominators; NaN if that is 0."""
    above, below = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)

    def statistic(weights: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(weights @ below > 0, (weights @ above) / (weights @ below), np.nan)

    return statistic


def jackknife_estimate(
    value: float, without_each: Sequence[float], bounds: tuple[float, float] = (-math.inf, math.inf)
) -> Estimate:
    """A value between two bounds with the interval of its jackknife standard error (Tukey 1958), from the values
    without each prompt.

    It serves statistics of a whole set, such as the number of distinct words, that a bootstrap would shift because it
    draws prompts twice.
    """
    count = len(without_each)
    if count < 2:
        return Estimate(value=value, count=count)
    array = np.asarray(without_each, np.float64)
    error = math.sqrt((count - 1) / count * float(((array - array.mean()) ** 2).sum()))
    half = t_quantile(count - 1) * error
    low, high = max(value - half, bounds[0]), min(value + half, bounds[1])
    return Estimate(value=value, low=low, high=high, count=count)
