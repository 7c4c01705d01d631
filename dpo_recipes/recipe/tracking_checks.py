"""The check of the section `tracking`: libraries and logins."""

from __future__ import annotations

import os
from collections.abc import Iterator

from dpo_recipes.errors import Finding
from dpo_recipes.recipe.compose import Composed
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.trackers import LIBRARIES


def check_trackers(recipe: Recipe, composed: Composed) -> Iterator[Finding]:
    """R316: the library of a tracker is not installed; R380: a tracker cannot report, such as one without a login."""
    for index, name in enumerate(recipe.tracking.report_to):
        library, where = LIBRARIES[name], composed.where(("tracking", "report_to", index))
        if not library.is_installed:
            yield Finding(
                "R316",
                f"{name} is not installed",
                where,
                "its metrics would be lost",
                f"{library.install_command}, or remove it from `report_to`",
            )
        elif missing := library.missing(os.environ):
            yield Finding("R380", f"{name} cannot report", where, missing, library.remedy)
