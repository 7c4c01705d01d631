"""How often one model's answers are preferred to another's, also with the effect of their length taken out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dpo_recipes.evaluate.intervals import bootstrap_estimate, ratio_statistic
from dpo_recipes.evaluate.result import Estimate

_PENALTY = 0.1
"""The factor of φ²/2 in the fit, which keeps φ finite if length alone decides every comparison."""
_LARGEST = 20.0
"""The largest intercept of the fit: a win-rate within 2e-9 of 0 or 1."""
_STEPS = 50


def preferences(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> np.ndarray:
    """For each prompt 1 if the first answer has the higher reward, 0 if the second has, and 0.5 for a tie."""
    one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    return (one > other) + 0.5 * (one == other)


def win_rate(preferred: np.ndarray) -> Estimate | None:
    """The mean preference with its bootstrap interval."""
    return bootstrap_estimate(ratio_statistic(list(preferred), [1.0] * len(preferred)), len(preferred))


def length_controlled_win_rate(
    preferred: np.ndarray, first_lengths: Sequence[int], second_lengths: Sequence[int]
) -> Estimate | None:
    """The win-rate that a logistic model predicts for answers of equal length, with its bootstrap interval.

    The model is P(first is preferred) = σ(θ + φ tanh(d / s)), with the difference d of the lengths and the standard
    deviation s of d over the prompts; the win-rate for d = 0 is σ(θ). It is the model of AlpacaEval 2 (Dubois et al.
    2024, https://arxiv.org/abs/2404.04475) without its term for the difficulty of an instruction, which needs the
    answers of many models. The mean of d is not subtracted, so that 0 means equal lengths.
    """
    difference = np.asarray(first_lengths, np.float64) - np.asarray(second_lengths, np.float64)
    scale = difference.std() if len(difference) else 0.0
    if scale == 0.0:  # the length has the same effect on all prompts, or there is only one
        return win_rate(preferred)
    slope = np.tanh(difference / scale)
    return bootstrap_estimate(lambda weights: _sigmoid(_fit(weights, slope, preferred)), len(preferred))


def _fit(weights: np.ndarray, slope: np.ndarray, preferred: np.ndarray) -> np.ndarray:
    """θ of the fit to each row of `weights` by damped Newton steps. Preferences of 0.5 count half on each side."""
    theta, phi = np.zeros(len(weights)), np.zeros(len(weights))
    for _ in range(_STEPS):
        predicted = _sigmoid(theta[:, None] + phi[:, None] * slope)
        error = weights * (preferred - predicted)
        spread = weights * predicted * (1 - predicted)
        of_theta, of_phi = error.sum(1), error @ slope - _PENALTY * phi
        a, b, c = spread.sum(1) + 1e-9, spread @ slope, spread @ slope**2 + _PENALTY
        determinant = a * c - b * b
        step_theta = (c * of_theta - b * of_phi) / determinant
        step_phi = (a * of_phi - b * of_theta) / determinant
        theta = np.clip(theta + np.clip(step_theta, -2, 2), -_LARGEST, _LARGEST)
        phi += np.clip(step_phi, -2, 2)
        if max(abs(step_theta).max(), abs(step_phi).max()) < 1e-9:
            break
    return theta


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))
