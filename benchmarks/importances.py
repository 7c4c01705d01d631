"""Measures how often sweeps of pure noise, and sweeps in which one setting decides, name a setting.

    python benchmarks/importances.py [--repeats 300] [--output benchmarks/results/importances.json]

Ours is `dpo_recipes.importance`; beside it stands the PED-ANOVA of Optuna with its defaults, which has no test.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from dpo_recipes.importance import rank_settings

Make = Callable[[np.random.Generator, float], tuple[dict[str, list[Any]], list[list[float]]]]
"""Makes the settings and the results of one sweep, with an effect of `rate` of this many standard deviations."""


def noise(draw: np.random.Generator, *, heavy: bool) -> float:
    return float(draw.standard_t(1.5) if heavy else draw.normal())


def grid(*sizes: int, seeds: int = 1, heavy: bool = False) -> Make:
    """A full grid; the effect is that of the first level of `rate`."""

    def make(draw: np.random.Generator, effect: float) -> tuple[dict[str, list[Any]], list[list[float]]]:
        points = list(itertools.product(*(range(size) for size in sizes)))
        names = ("rate", "beta", "rank")[: len(sizes)]
        settings = {name: [point[at] for point in points] for at, name in enumerate(names)}
        results = [[effect * (p[0] == 0) + noise(draw, heavy=heavy) for _ in range(seeds)] for p in points]
        return settings, results

    return make


def random_search(trials: int, *, heavy: bool = False) -> Make:
    """Values at random; the best rate is in the middle of its range."""

    def make(draw: np.random.Generator, effect: float) -> tuple[dict[str, list[Any]], list[list[float]]]:
        rates = [10 ** draw.uniform(-6, -4) for _ in range(trials)]
        settings: dict[str, list[Any]] = {
            "rate": rates,
            "rank": [8 * int(draw.integers(1, 9)) for _ in rates],
            "schedule": [("cosine", "linear")[draw.integers(2)] for _ in rates],
        }
        return settings, [[effect * abs(math.log10(rate) + 5) + noise(draw, heavy=heavy)] for rate in rates]

    return make


def tpe_study(draw: np.random.Generator, effect: float, trials: int = 20) -> optuna.Study:
    """Values by TPE, which depend on the results so far."""
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=int(draw.integers(2**31))))

    def measure(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("rate", 1e-6, 1e-4, log=True)
        trial.suggest_int("rank", 8, 64, step=8)
        trial.suggest_categorical("schedule", ["cosine", "linear"])
        return effect * abs(math.log10(rate) + 5) + noise(draw, heavy=False)

    study.optimize(measure, n_trials=trials)
    return study


def grid_study(draw: np.random.Generator, effect: float) -> optuna.Study:
    """The grid of three by three as a study."""
    study, levels = optuna.create_study(), list(range(3))
    distributions = {name: optuna.distributions.CategoricalDistribution(levels) for name in ("rate", "beta")}
    for rate, beta in itertools.product(levels, levels):
        value, params = effect * (rate == 0) + noise(draw, heavy=False), {"rate": rate, "beta": beta}
        study.add_trial(optuna.trial.create_trial(value=value, params=params, distributions=distributions))
    return study


def settings_of(study: optuna.Study) -> tuple[dict[str, list[Any]], list[list[float]]]:
    names = study.trials[0].params
    return {name: [t.params[name] for t in study.trials] for name in names}, [[t.value or 0.0] for t in study.trials]


def shares_named(make: Make, effect: float, repeats: int) -> dict[str, float]:
    """The share of sweeps in which each setting is shown to matter, and in which any is."""
    draw, counts = np.random.default_rng(0), Counter[str]()
    for _ in range(repeats):
        found = rank_settings(*make(draw, effect))
        shown = [each.settings[0] for each in found.shown] if found else []
        counts.update([*shown, *(["any"] if shown else [])])
    return {name: round(count / repeats, 3) for name, count in sorted(counts.items())}


def ped_anova(make: Callable[[np.random.Generator, float], optuna.Study], effect: float, repeats: int) -> Any:
    """How often each setting has the largest share, and the median of the largest share."""
    draw, first, largest = np.random.default_rng(0), Counter[str](), []
    for _ in range(repeats):
        shares = get_param_importances(make(draw, effect), evaluator=PedAnovaImportanceEvaluator())
        largest.append(max(shares.values()))
        tied = [name for name, share in shares.items() if share > largest[-1] - 1e-9]
        first.update(tied)
    return {"first": {name: count / repeats for name, count in first.items()}, "largest": round(median(largest), 3)}


def main() -> None:
    """Measure, and print or write the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    kinds: dict[str, Make] = {
        "grid 2x2": grid(2, 2),
        "grid 2x2, 3 seeds": grid(2, 2, seeds=3),
        "grid 3x3": grid(3, 3),
        "grid 3x3, heavy tails": grid(3, 3, heavy=True),
        "grid 3x3, 3 seeds": grid(3, 3, seeds=3),
        "grid 2x2x2, 3 seeds": grid(2, 2, 2, seeds=3),
        "20 at random": random_search(20),
        "20 at random, heavy tails": random_search(20, heavy=True),
        "20 by tpe": lambda draw, effect: settings_of(tpe_study(draw, effect)),
    }
    report = {
        "repeats": options.repeats,
        "named": {
            name: {f"effect {effect}": shares_named(make, effect, options.repeats) for effect in (0, 4)}
            for name, make in kinds.items()
        },
        "ped_anova": {
            name: {f"effect {effect}": ped_anova(make, effect, options.repeats) for effect in (0, 4)}
            for name, make in {"grid 3x3": grid_study, "20 by tpe": tpe_study}.items()
        },
    }
    text = json.dumps(report, indent=2) + "\n"
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
