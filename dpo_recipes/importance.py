"""How much of the differences between runs goes back to each setting, and whether that is more than chance.

The shares are those of an analysis of variance with main effects: for a full grid the exact functional one, otherwise
the part that only this setting explains. docs/adr/0021 says why they do not come from Optuna.

numpy is loaded when it is needed. In shapes, N is the number of results, K that of columns, O that of orders.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dpo_recipes.significance import pooled_spread

if TYPE_CHECKING:
    from numpy import ndarray

ABSENT: Any = object()
"""The value of a setting that a configuration does not have."""
_LEVEL = 0.05
"""The share of experiments in which chance alone makes some setting look as if it mattered."""
_NUM_ORDERS = 4_999
"""Orders of the results that are tried at random, unless there are no more than these."""
_LOG_RATIO = 10
"""Positive numbers are taken by their logarithm if the largest is at least this many times the smallest."""
_MAX_LEVELS = 3
"""Outside a full grid, numbers with more values than these are described by a parabola."""
_TINY = 1e-12
"""Squares that are smaller than this part of all squares are rounding errors."""


@dataclass(frozen=True)
class Importance:
    """What one setting contributes, or several that always change together."""

    settings: tuple[str, ...]
    share: float
    """Its part of the variance of the results, from 0 to 1. What chance contributes on average is subtracted."""
    chance_share: float
    """The share that chance alone reaches for some setting in one of twenty experiments of this size."""

    @property
    def is_shown(self) -> bool:
        """Whether the results show that the setting matters."""
        return self.share > self.chance_share


@dataclass(frozen=True)
class Importances:
    """All settings, the one with the largest share first."""

    settings: tuple[Importance, ...]
    rest: float
    """The other part of the variance: combinations of settings, what several explain equally well, and chance."""
    seed_share: float | None
    """The part of the variance that other seeds cause, which is a part of `rest`; None without repeated runs."""

    @property
    def shown(self) -> list[Importance]:
        """The settings of which the results show that they matter."""
        return [importance for importance in self.settings if importance.is_shown]


def rank_settings(settings: Mapping[str, Sequence[Any]], results: Sequence[Sequence[float]]) -> Importances | None:
    """The importance of each setting.

    Args:
        settings: For each setting its value in each configuration, or `ABSENT`.
        results: For each configuration the results of its runs, at least one. All are finite.

    Returns:
        None if there are fewer results than the number of settings needs, or if all results are equal.
    """
    if not settings or not results:
        return None
    groups, is_grid = _group_alike(settings), _is_full_grid(settings, results)
    # In a full grid main effects do not depend on one another, so each run counts by itself. Elsewhere the runs of a
    # configuration share what main effects leave out, and only their mean is a new result.
    units = [[value] for runs in results for value in runs] if is_grid else results
    if len(units) - 2 < min(2, max(max(_levels(settings[names[0]])) for names in groups)):
        return None  # one setting alone leaves nothing to judge by, and numpy is not needed
    import numpy as np

    owners = [number for number, runs in enumerate(results) for _ in (runs if is_grid else runs[:1])]
    y = np.array([math.fsum(unit) / len(unit) for unit in units])
    largest = float(np.abs(y).max(initial=0.0)) or 1.0
    y = y / largest  # so that no square is too large
    y = y - y.mean()
    columns = [_columns(settings[names[0]], by_level=is_grid)[owners] for names in groups]
    full, total = _basis(columns, len(y)), float(y @ y)
    if len(y) - 1 - full.shape[1] < 1 or total <= _TINY:
        return None
    orders, level = _orders(len(y)), _LEVEL / len(groups)
    found = []
    for number, names in enumerate(groups):
        others = _basis([of_group for at, of_group in enumerate(columns) if at != number], len(y))
        found.append(Importance(names, *_judge(y, full, others, orders, level)))
    found.sort(key=lambda importance: -importance.share)
    rest = max(0.0, 1 - math.fsum(importance.share for importance in found))
    spread = pooled_spread(results)
    if spread is None:
        return Importances(tuple(found), rest, None)
    of_seeds = (spread.deviation / largest) ** 2 * sum(1 / len(unit) for unit in units) / len(units)
    return Importances(tuple(found), rest, min(rest, of_seeds * (len(y) - 1) / total))


def _judge(y: ndarray, full: ndarray, others: ndarray, orders: ndarray, level: float) -> tuple[float, float]:
    """The share of a setting, and the one that chance reaches, from the results (N) and orthonormal columns of all
    settings and of the other ones (N K).

    What the other settings do not explain is put into many orders. In each, the setting explains something by chance
    (Freedman and Lane 1983, with the statistic of the F test). `level` is the share of orders in which it explains
    more than `chance_share`; it is Bonferroni's for the number of settings.
    """
    import numpy as np

    own = _orthonormal(full - others @ (others.T @ full), 1e-5)
    if own.shape[1] == 0:  # whatever it explains, the others together explain as well
        return 0.0, 1.0
    total = float(y @ y)
    explained = float(np.sum((own.T @ y) ** 2))
    left = max(total - float(np.sum((full.T @ y) ** 2)), _TINY * total)
    noise = own.shape[1] * left / (len(y) - 1 - full.shape[1])

    def share(squares: float) -> float:
        return max(0.0, (squares - noise) / (total - explained + squares))

    shuffled = (y - others @ (others.T @ y))[orders]
    by_chance = np.sum((shuffled @ own) ** 2, axis=1)
    left_by_chance = np.sum(shuffled**2, axis=1) - np.sum((shuffled @ full) ** 2, axis=1)
    ratios = by_chance / np.maximum(left_by_chance, _TINY * total)
    limit = float(np.quantile(ratios, 1 - level, method="higher"))
    return share(explained), share(limit * left * (1 + 1e-9))


def _orders(size: int) -> ndarray:
    """Orders of `size` results (O N): all of them, or many at random, which are the same each time."""
    import numpy as np

    if size <= 6:
        return np.array(list(itertools.permutations(range(size))))
    draw, given = np.random.default_rng(0), np.arange(size)[None]
    return np.concatenate([given, draw.permuted(np.repeat(given, _NUM_ORDERS, axis=0), axis=1)])


def _group_alike(settings: Mapping[str, Sequence[Any]]) -> list[tuple[str, ...]]:
    """The names of the settings, those together that always change together."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, values in settings.items():
        groups.setdefault(tuple(_levels(values)), []).append(name)
    return [tuple(names) for names in groups.values()]


def _levels(values: Sequence[Any]) -> list[int]:
    """The number of each value among the different ones."""
    seen: dict[str, int] = {}
    keys = ["" if value is ABSENT else json.dumps(value, sort_keys=True, default=str) for value in values]
    return [seen.setdefault(key, len(seen)) for key in keys]


def _is_full_grid(settings: Mapping[str, Sequence[Any]], results: Sequence[Sequence[float]]) -> bool:
    """Whether each combination of values is there once, with the same number of runs. One setting without repeated
    runs is none, because nothing would be left to judge its values by."""
    levels = {tuple(_levels(values)) for values in settings.values()}
    size = math.prod(max(of_setting) + 1 for of_setting in levels)
    counts = {len(runs) for runs in results}
    is_full = size == len(results) == len(set(zip(*levels, strict=True)))
    return is_full and len(counts) == 1 and (len(levels) > 1 or counts != {1})


def _columns(values: Sequence[Any], *, by_level: bool) -> ndarray:
    """A setting's values as columns (N K): one for each value, or for numbers those of a parabola."""
    import numpy as np

    levels, present = _levels(values), [value for value in values if value is not ABSENT]
    is_numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in present)
    if by_level or not is_numeric or max(levels) < _MAX_LEVELS:
        return np.eye(max(levels) + 1)[levels]
    low, high = min(present), max(present)
    scale = math.log if low > 0 and high / low >= _LOG_RATIO else float
    middle, half = (scale(low) + scale(high)) / 2, (scale(high) - scale(low)) / 2
    there = np.array([float(value is not ABSENT) for value in values])
    at = np.array([0.0 if value is ABSENT else (scale(value) - middle) / half for value in values])
    return np.stack([there, at, at**2], axis=1)


def _basis(columns: Sequence[ndarray], size: int) -> ndarray:
    """Orthonormal columns (N K) that span these and no constant."""
    import numpy as np

    joined = np.concatenate([np.zeros((size, 0)), *columns], axis=1)
    joined = joined - joined.mean(axis=0)
    lengths = np.linalg.norm(joined, axis=0)
    return _orthonormal(joined[:, lengths > 1e-9] / lengths[lengths > 1e-9], 1e-7)


def _orthonormal(columns: ndarray, least: float) -> ndarray:
    """Orthonormal columns that span these, without directions that are shorter than `least`."""
    import numpy as np

    directions, lengths, _ = np.linalg.svd(columns, full_matrices=False)
    return directions[:, lengths > least]
