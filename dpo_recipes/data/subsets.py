"""The subset of a row, such as its category: evaluations also give the accuracy of each subset."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from dpo_recipes.data.message import BadRow
from dpo_recipes.data.report import SplitReport
from dpo_recipes.data.rows import clean_text
from dpo_recipes.errors import DataError, Finding
from dpo_recipes.objectives.row_shapes import SUBSET
from dpo_recipes.recipe.schema.data import Source

MAX_SUBSETS = 100
"""The maximum number of subsets of a run. A column with more values is no category, and each value would be a metric of
very few rows."""
MAX_NAME_CHARS = 100
NO_SUBSET = -1
"""The number of a row that belongs to no subset."""


def subset_of(value: Any) -> str | None:
    """The name of a subset in one line, from a text, a whole number or a truth value. None for null or an empty text.

    Raises `BadRow` `bad_subset` and those of `clean_text`.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():  # whole numbers of a file in which some rows have none
        return str(int(value))
    if not isinstance(value, str | int):
        raise BadRow("bad_subset", f"`{SUBSET}` is {value!r:.60}, which does not name a subset")
    name = " ".join(clean_text(str(value), SUBSET).split())
    if len(name) > MAX_NAME_CHARS:
        raise BadRow("bad_subset", f"`{SUBSET}` has {len(name):,} characters, more than {MAX_NAME_CHARS}")
    return name or None


def too_many_subsets(source: Source, at: tuple[str | int, ...], names: Iterable[str]) -> DataError:
    """The error D415; `at` is the path of the source in the recipe, and `names` are the subsets so far."""
    first = ", ".join(f"`{name}`" for name in list(names)[:3])
    found = Finding(
        "D415",
        f"`{source.columns[SUBSET]}` names more than {MAX_SUBSETS} subsets",
        why=f"an accuracy would be logged for each of them, on very few rows; the first are {first}",
        fix="name a column with few values, such as a category, or remove `subset` from `columns`",
        at=(*at, "columns", SUBSET),
    )
    return DataError(found)


def subset_names(reports: Mapping[str, SplitReport]) -> tuple[str, ...]:
    """The names of all splits' subsets in order; a subset's index is the number that tokenized rows have."""
    return tuple(sorted({name for report in reports.values() for name in report.subsets}))
