"""Guards, one module for each: they watch the metrics of a run and say when it begins to go wrong.

`registry.GUARDS` lists them; docs/guards.md explains them with their sources.
"""

from __future__ import annotations

from dpo_recipes import registry
from dpo_recipes.guards.base import Guard


def guard_classes() -> dict[str, type[Guard]]:
    """The class of each guard by its name, in the order of the table."""
    return {name: registry.load("guards", name) for name in registry.GUARDS}
