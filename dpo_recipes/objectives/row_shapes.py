"""Which rows of data an objective can learn from, directly or after a conversion (data/convert.py)."""

from __future__ import annotations

from dpo_recipes.objectives.base import RowShape

ROW_NUMBERS = ("weight", "margin")
"""Numbers that a row may have beside its texts, from columns that `columns:` names."""
SUBSET = "subset"
"""The name in `columns:` of the subset that a row belongs to."""
_MADE_FROM: dict[RowShape, tuple[RowShape, ...]] = {
    "pair": ("pair",),
    "labelled": ("labelled", "pair"),
    "completion": ("completion", "labelled", "pair"),
    "prompt": ("prompt", "completion", "labelled", "pair"),
}
_LEARNS_FROM: dict[RowShape, str] = {
    "pair": "two answers to one prompt",
    "labelled": "answers that are labelled as good or bad",
    "completion": "answers to imitate",
    "prompt": "answers that the model itself writes to prompts",
}


def why_not(data: RowShape, objective: RowShape) -> tuple[str, str] | None:
    """Why an objective cannot learn from rows of another shape, and a way out. None if it can."""
    if data in _MADE_FROM[objective]:
        return None
    needed = {"pair": "a chosen and a rejected answer", "labelled": "a label for each answer"}.get(objective, "answers")
    other = {
        "labelled": "kto}`, which learns from labelled answers",
        "prompt": "rloo}`, which learns from answers that the model writes",
    }.get(data, "sft}`, which imitates answers")
    return (
        f"the recipe's objective learns from {_LEARNS_FROM[objective]}",
        f"use data with {needed}, or write `objective: {{kind: {other}",
    )
