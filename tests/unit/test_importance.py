"""What each setting contributes to the differences between runs, and whether chance could do the same."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from itertools import product

import pytest

from dpo_recipes.importance import ABSENT, Importances, rank_settings

Effect = Callable[[float, float], float]
RATES, BETAS = (1e-5, 2e-5, 3e-5), (0.1, 0.2, 0.3)


def no_effect(rate: float, beta: float) -> float:
    return 0.5


def rate_decides(rate: float, beta: float) -> float:
    return {1e-5: 0.5, 2e-5: 0.3, 3e-5: 0.4}[rate]


def of_grid(effect: Effect, seeds: int, noise: float, draw: random.Random) -> Importances | None:
    grid = list(product(RATES, BETAS))
    settings = {"rate": [rate for rate, _ in grid], "beta": [beta for _, beta in grid]}
    return rank_settings(settings, [[effect(*at) + draw.gauss(0, noise) for _ in range(seeds)] for at in grid])


def of_random_search(effect: Effect, trials: int, noise: float, draw: random.Random) -> Importances | None:
    rates = [10 ** draw.uniform(-6, -4) for _ in range(trials)]
    settings: dict[str, list[object]] = {
        "rate": list(rates),
        "rank": [draw.randrange(8, 65, 8) for _ in rates],
        "schedule": [draw.choice(["cosine", "linear"]) for _ in rates],
    }
    return rank_settings(settings, [[effect(rate, 0) + draw.gauss(0, noise)] for rate in rates])


def names_shown(found: Importances | None) -> list[tuple[str, ...]]:
    assert found is not None
    return [each.settings for each in found.shown]


def shares(found: Importances | None) -> dict[str, float]:
    assert found is not None
    return {" ".join(each.settings): each.share for each in found.settings}


def test_the_shares_of_a_full_grid_are_those_of_the_functional_analysis_of_variance() -> None:
    """y = a + b + ab/10 with a, b from -1 to 1 on a 2 x 2 grid: squares 4, 4 and 0.04; no noise is left to judge by, so
    ab, with one degree of freedom, is what is subtracted from the others."""
    grid = list(product((-1, 1), (-1, 1)))
    settings = {"a": [a for a, _ in grid], "b": [b for _, b in grid]}
    found = rank_settings(settings, [[a + b + a * b / 10] for a, b in grid])
    assert shares(found) == pytest.approx({"a": 3.96 / 8.04, "b": 3.96 / 8.04})
    assert found is not None
    assert found.rest == pytest.approx(0.12 / 8.04)
    assert found.seed_share is None


def test_a_setting_that_decides_is_first_and_noise_is_not_shown() -> None:
    found = of_grid(rate_decides, 1, 0.01, random.Random(1))
    assert names_shown(found) == [("rate",)]
    assert shares(found)["rate"] > 0.95
    assert shares(found)["beta"] < 0.05


def test_a_curve_with_its_best_value_in_the_middle_is_found_in_a_random_search() -> None:
    found = of_random_search(lambda rate, _: abs(math.log10(rate) + 4.7), 20, 0.1, random.Random(2))
    assert names_shown(found) == [("rate",)]
    assert found is not None
    assert found.settings[0].share > 0.5 > sum(other.share for other in found.settings[1:])


@pytest.mark.parametrize("make", [of_grid, of_random_search])
def test_pure_noise_shows_nothing_but_in_one_of_twenty_experiments(make: Callable[..., Importances | None]) -> None:
    """The number of false alarms in 100 experiments with a rate of 5 % exceeds 11 once in 250 times."""
    draw = random.Random(3)
    alarms = sum(bool(names_shown(make(no_effect, count, 1.0, draw))) for count in [3 if make is of_grid else 20] * 100)
    assert alarms <= 11


def test_two_by_two_runs_show_nothing_until_they_are_repeated() -> None:
    """Each of the three ways to split four results into pairs is as likely: no split is rarer than one of three."""
    settings = {"a": [0, 0, 1, 1], "b": [0, 1, 0, 1]}
    single = [[1.0], [1.001], [2.0], [2.001]]
    found = rank_settings(settings, single)
    assert names_shown(found) == []
    assert shares(found)["a"] > 0.99
    repeated = [[value - 0.01, value, value + 0.01] for (value,) in single]
    assert names_shown(rank_settings(settings, repeated)) == [("a",)]


def test_combinations_are_the_rest_and_seeds_a_part_of_it() -> None:
    """Only whether a equals b matters: squares of ±1 in 12 runs give 12, those of seeds ±0.1 in 8 of them 0.08 with 8
    degrees of freedom; the variance of a run is 12.08/11."""
    settings = {"a": [0, 0, 1, 1], "b": [0, 1, 0, 1]}
    found = rank_settings(settings, [[sign - 0.1, sign, sign + 0.1] for sign in (1, -1, -1, 1)])
    assert names_shown(found) == []
    assert found is not None
    assert found.rest == pytest.approx(1)
    assert found.seed_share == pytest.approx(0.01 / (12.08 / 11))


def test_settings_that_change_together_are_one() -> None:
    settings = {"rate": [1, 2, 3] * 3, "batch": [16, 8, 4] * 3, "beta": [b for b in BETAS for _ in range(3)]}
    found = rank_settings(settings, [[rate + 0.01 * (n * n % 7)] for n, rate in enumerate(settings["rate"])])
    assert names_shown(found) == [("rate", "batch")]


def test_a_setting_that_the_others_determine_has_no_share() -> None:
    draw = random.Random(4)
    kinds = ["dpo", "dpo", "simpo", "simpo"] * 3
    gammas = [
        0.5 if kind == "simpo" and n % 4 == 3 else 1.0 if kind == "simpo" else ABSENT for n, kind in enumerate(kinds)
    ]
    found = rank_settings({"kind": kinds, "gamma": gammas}, [[draw.random()] for _ in kinds])
    assert found is not None
    kind = next(each for each in found.settings if each.settings == ("kind",))
    assert (kind.share, kind.chance_share, kind.is_shown) == (0.0, 1.0, False)


@pytest.mark.parametrize(
    ("settings", "results"),
    [
        ({"a": [1, 2]}, [[0.1], [0.2]]),  # as many values as results
        ({"a": [1, 2, 3], "b": ["x", "x", "y"]}, [[0.1], [0.2], [0.3]]),
        ({"a": [1, 1, 2, 2], "b": [1, 2, 1, 2]}, [[0.5]] * 4),  # no differences
        ({"a": []}, []),
        ({}, [[0.1], [0.2]]),
    ],
)
def test_too_little_to_judge_by(settings: dict[str, Sequence[object]], results: list[list[float]]) -> None:
    assert rank_settings(settings, results) is None


def test_one_setting_is_judged_by_the_spread_of_the_seeds() -> None:
    results = [[0.30, 0.31, 0.32], [0.40, 0.41, 0.42]]
    assert names_shown(rank_settings({"a": ["x", "y"]}, results)) == []  # 1 of 10 splits of six results into threes
    assert names_shown(rank_settings({"a": ["x", "y", "z"]}, [*results, [0.50, 0.51, 0.52]])) == [("a",)]


def test_numbers_of_any_size_and_lists_are_values() -> None:
    grid = list(product((1e-300, 1e300, True), (["q"], ["q", "v"], None)))
    settings = {"a": [a for a, _ in grid], "b": [b for _, b in grid]}
    found = rank_settings(settings, [[1e200 * (number // 3) + number] for number in range(9)])
    assert names_shown(found) == [("a",)]


def test_the_same_results_give_the_same_figures() -> None:
    assert of_grid(no_effect, 2, 1.0, random.Random(5)) == of_grid(no_effect, 2, 1.0, random.Random(5))
