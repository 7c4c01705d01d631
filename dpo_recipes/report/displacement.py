"""The section of the data page about likelihood displacement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dpo_recipes.data.inspect.displacement import ADVICE, COLUMNS, LABELS, MEANING, describe_measured
from dpo_recipes.formats import format_count, format_short
from dpo_recipes.report.table import Table

_SHOWN = 50
_HEADS = {"min": "Minimum", "p5": "5th percentile", "median": "Median", "p95": "95th percentile", "max": "Maximum"}


@dataclass(frozen=True)
class DisplacementSection:
    """What `displacement` in the output of `dpo-recipe data --json` says, for the template."""

    measured: str
    meaning: str
    advice: tuple[str, ...]
    tables: list[Table]


def displacement_section(report: dict[str, Any] | None) -> DisplacementSection | None:
    """The section, or None if the data were inspected without the model."""
    if report is None:
        return None
    rows = [
        [
            row["where"],
            *(format_short(row[name]) for name in LABELS),
            *map(format_count, (row["chosen"], row["rejected"])),
        ]
        for row in report["scores"][:_SHOWN]
    ]
    distribution = [
        [label, *(format_short(report["distribution"][name][column]) for column in COLUMNS)]
        for name, label in LABELS.items()
    ]
    tables = [
        Table("Similarity of the two answers", ["", *(_HEADS[column] for column in COLUMNS)], distribution),
        Table(
            f"The {len(rows)} pairs with the highest scores",
            ["Where", *LABELS.values(), "Chosen tokens", "Rejected tokens"],
            rows,
        ),
    ]
    return DisplacementSection(describe_measured(report), MEANING, ADVICE, tables)
