"""The Jinja templates of the pages."""

from __future__ import annotations

from functools import lru_cache

from jinja2 import Environment, PackageLoader, StrictUndefined


@lru_cache
def load_templates() -> Environment:
    """Templates beside this file; an undefined variable is an error, and all data is escaped."""
    return Environment(
        loader=PackageLoader("dpo_recipes.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
