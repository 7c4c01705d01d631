"""Guards, one module for each: they watch the metrics of a run and say when it begins to go wrong.

`registry.GUARDS` lists them; docs/guards.md explains them with their sources. Other packages add theirs through the
entry-point group `dpo_recipes.guards`.
"""

from __future__ import annotations

from typing import Any

from dpo_recipes import registry
from dpo_recipes.error_codes import CodeEntry
from dpo_recipes.errors import RecipeError
from dpo_recipes.guards.base import Guard


def guard_classes() -> dict[str, type[Guard]]:
    """The class of each guard of this package by its name, in the order of the table."""
    return {name: registry.load("guards", name) for name in registry.GUARDS}


def outside_guards() -> dict[str, type[Guard]]:
    """The class of each guard of another package, by its name. Raises `RecipeError` R318."""
    names = (name for name in registry.names("guards") if name not in registry.GUARDS)
    return {name: load_outside_guard(name) for name in names}


def load_outside_guard(name: str) -> type[Guard]:
    """The class of a guard of another package. Raises `RecipeError` R318 if it cannot be loaded or is no guard."""
    found: Any = registry.load("guards", name)
    if isinstance(found, type) and issubclass(found, Guard) and getattr(found, "name", None) == name:
        return found
    raise RecipeError.of(
        "R318",
        f"the entry `{name}` of another package is not a guard of that name",
        why=f"it is {found!r}, and a guard is a subclass of `dpo_recipes.guards.base.Guard` with `name = {name!r}`",
        fix="repair, upgrade or uninstall the package that has this entry in `dpo_recipes.guards`",
    )


def outside_codes() -> dict[str, CodeEntry]:
    """The explanation of the warning of each guard of another package."""
    return {
        guard.code: CodeEntry(
            f"warning: the guard `{name}` of another package",
            f"It fires when {guard.fires}: {guard.reason}.\nSources: {'; '.join(map(str, guard.sources))}",
        )
        for name, guard in outside_guards().items()
    }
