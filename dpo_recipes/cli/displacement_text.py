"""The lines of `dpo-recipe data --model` about likelihood displacement."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dpo_recipes.data.inspect.displacement import ADVICE, COLUMNS, LABELS, MEANING, describe_measured

_SHOWN = 10


def describe_displacement(report: dict[str, Any]) -> Iterator[str]:
    """The distribution of the scores, the pairs with the highest ones, and what to do."""
    yield f"displacement: {describe_measured(report)}"
    yield f"  {'similarity of the answers':<26}" + "".join(f"{column:>12}" for column in COLUMNS)
    for name, label in LABELS.items():
        numbers = report["distribution"][name]
        yield f"  {label:<26}" + "".join(f"{numbers[column]:>12,.4g}" for column in COLUMNS)
    yield ""
    shown = report["scores"][:_SHOWN]
    width = max(14, *(len(row["where"]) for row in shown))
    yield f"  {'highest scores':<{width}}{'normalized':>12}{'CHES':>12}{'chosen':>9}{'rejected':>9}"
    for row in shown:
        scores = "".join(f"{row[name]:>12,.4g}" for name in LABELS)
        yield f"  {row['where']:<{width}}{scores}{row['chosen']:>9,}{row['rejected']:>9,}"
    yield ""
    yield f"  {'meaning':<9} {MEANING}"
    for advice in ADVICE:
        yield f"  {'do':<9} {advice}"
