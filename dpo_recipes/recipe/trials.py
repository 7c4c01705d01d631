"""The trials of a sweep: the combinations of its values, and the recipe of each."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dpo_recipes.recipe.compose import Composed, Origin, Placement, place_values
from dpo_recipes.recipe.load import DataPath
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.schema.sweep import Range, Sweep
from dpo_recipes.recipe.schema.training import Training

_MAX_NAME = 100
"""The maximum length of a recipe's name."""


@dataclass(frozen=True)
class Trial:
    """One combination of the values of a sweep."""

    number: int
    """From 1 on, in the order of the combinations."""
    placements: tuple[Placement, ...]

    @property
    def values(self) -> dict[str, Any]:
        """The value of each setting, by its path."""
        return {placement.name: placement.value for placement in self.placements}


def num_combinations(sweep: Sweep) -> int:
    """The number of combinations of a grid's values, of which `max_trials` may leave some out."""
    return math.prod([len(axis) for axis in _axes(sweep)])


def expand(recipe: Recipe) -> list[Trial]:
    """The trials of a recipe's sweep. Of two settings of a grid, the later one varies faster, and zipped ones the
    fastest. Those of `tpe` get their values when they start (`chosen_trial`)."""
    sweep = recipe.sweep
    assert sweep is not None, "the recipe has a sweep"
    if sweep.tpe:
        return [Trial(number, ()) for number in range(1, (sweep.max_trials or 0) + 1)]
    if sweep.random:
        return [_random_trial(sweep, recipe.training.seed, number) for number in range(1, (sweep.max_trials or 0) + 1)]
    combinations = itertools.islice(itertools.product(*_axes(sweep)), sweep.max_trials)
    return [Trial(number, tuple(itertools.chain(*parts))) for number, parts in enumerate(combinations, 1)]


def trials_to_check(recipe: Recipe) -> list[Trial]:
    """Trials that have each value of the sweep at least once: all trials, or for `tpe` one with the first value of each
    setting, and one for each other value and end of a range."""
    sweep = recipe.sweep
    if sweep is None or not sweep.tpe:
        return [] if sweep is None else expand(recipe)
    choices: dict[str, Sequence[int | float]] = {
        name: (values.low, values.high) if isinstance(values, Range) else range(len(values))
        for name, values in sweep.tpe.items()
    }
    first = {name: of_setting[0] for name, of_setting in choices.items()}
    others = [{**first, name: choice} for name, of_setting in choices.items() for choice in of_setting[1:]]
    return [chosen_trial(sweep, number, chosen) for number, chosen in enumerate([first, *others], 1)]


def chosen_trial(sweep: Sweep, number: int, chosen: Mapping[str, int | float]) -> Trial:
    """The trial of a sweep by `tpe` with a choice for each setting: the index in a list of values, or the value in a
    range."""
    placements = []
    for name, values in sweep.tpe.items():
        choice, at = chosen[name], ("sweep", "tpe", name)
        if isinstance(values, Range):
            placements.append(Placement(name, choice, at))
        else:
            placements.append(Placement(name, values[int(choice)], (*at, int(choice))))
    return Trial(number, tuple(placements))


def _axes(sweep: Sweep) -> list[list[tuple[Placement, ...]]]:
    """What is combined: the values of each setting of the grid, and the rows of the zipped settings."""
    axes: list[list[tuple[Placement, ...]]] = [
        [(placement,) for placement in _placements("grid", name, values)] for name, values in sweep.grid.items()
    ]
    if sweep.zip:
        columns = [_placements("zip", name, values) for name, values in sweep.zip.items()]
        axes.append(list(zip(*columns, strict=True)))
    return axes


def _placements(kind: str, name: str, values: list[Any]) -> list[Placement]:
    return [Placement(name, value, ("sweep", kind, name, index)) for index, value in enumerate(values)]


def _random_trial(sweep: Sweep, seed: int, number: int) -> Trial:
    placements = []
    for name, values in sweep.random.items():
        # A text is hashed with SHA-512, the same in every process and version of Python.
        share = random.Random(f"{seed} {number} {name}").random()
        if isinstance(values, Range):
            placements.append(Placement(name, _value_in(values, share), ("sweep", "random", name)))
        else:
            index = int(share * len(values))
            placements.append(Placement(name, values[index], ("sweep", "random", name, index)))
    return Trial(number, tuple(placements))


def _value_in(values: Range, share: float) -> int | float:
    """The value of a range below which a share of its values lies."""
    low, high = values.low, values.high
    if values.step is not None:
        found = low + values.step * int(share * (math.floor((high - low) / values.step + 1e-9) + 1))
    elif values.is_whole:
        # Each whole number gets the interval of half a unit around it.
        found = _between(low - 0.5, high + 0.5, share, log=values.log)
    else:
        found = _between(low, high, share, log=values.log)
    return rounded(found, values)


def rounded(value: float, values: Range) -> int | float:
    """A value of a range with at most four digits, or as a whole number if the range has these."""
    if values.is_whole:
        return min(max(round(value), int(values.low)), int(values.high))
    return min(max(float(f"{value:.4g}"), values.low), values.high)


def _between(low: float, high: float, share: float, *, log: bool) -> float:
    return low * (high / low) ** share if log else low + (high - low) * share


def compose_trial(composed: Composed, recipe: Recipe, trial: Trial, seed_index: int = 0) -> Composed:
    """The recipe of one run of a trial: that of the sweep with the trial's values, and without `sweep`.

    It has a name of its own, so that trackers and rendezvous distinguish the runs, and the sweep's name as the project
    and the group of trackers. Raises `RecipeError` R113.
    """
    sweep = recipe.sweep
    assert sweep is not None, "the recipe has a sweep"
    placed = place_values(composed, trial.placements)
    data = {key: value for key, value in placed.data.items() if key != "sweep"}
    origins = {place: origin for place, origin in placed.origins.items() if place[:1] != ("sweep",)}
    suffix = f"-{trial.number:03}"
    if sweep.seeds > 1:
        seed = _seed_in(data)
        if isinstance(seed, int):  # validation reports other values
            _section(data, "training")["seed"] = seed = seed + seed_index
            origins[("training", "seed")] = _origin(composed, ("sweep", "seeds"))
        suffix += f"-seed{seed}"
    data["name"] = recipe.name[: _MAX_NAME - len(suffix)] + suffix
    tracking = _section(data, "tracking")
    tracking.setdefault("project", recipe.name)
    tracking.setdefault("group", recipe.name)
    return replace(placed, data=data, origins=origins)


def seed_of_trial(composed: Composed, recipe: Recipe, trial: Trial, seed_index: int = 0) -> int:
    """`training.seed` of one run of a trial."""
    return _seed_in(compose_trial(composed, recipe, trial, seed_index).data)


def _seed_in(data: dict[str, Any]) -> Any:
    return _section(data, "training").get("seed", Training.model_fields["seed"].default)


def _section(data: dict[str, Any], name: str) -> dict[str, Any]:
    """A section of the recipe's data, which is created if it is absent."""
    section = data.setdefault(name, {})
    return section if isinstance(section, dict) else {}  # validation reports other types


def _origin(composed: Composed, place: DataPath) -> Origin:
    found = composed.origin_of(place)
    assert found is not None, "a sweep is written in a recipe"
    return found
