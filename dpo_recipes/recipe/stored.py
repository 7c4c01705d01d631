"""A composed recipe as plain data, so that another process reads what this one has composed: files may change."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from dpo_recipes.errors import Where
from dpo_recipes.recipe.compose import Composed, Origin
from dpo_recipes.recipe.load import Span


def to_plain(composed: Composed) -> dict[str, Any]:
    """The recipe as data for JSON."""
    origins = [
        [list(place), origin.kind, asdict(origin.span), str(origin.folder)]
        for place, origin in composed.origins.items()
    ]
    return {"file": composed.file, "text": composed.text, "data": composed.data, "origins": origins}


def from_plain(plain: dict[str, Any]) -> Composed:
    """The inverse of `to_plain`."""
    origins = {
        tuple(place): Origin(kind, Span(Where(**span["value"]), span["key"] and Where(**span["key"])), Path(folder))
        for place, kind, span, folder in plain["origins"]
    }
    return Composed(plain["file"], plain["text"], plain["data"], origins)
