"""The Jinja templates of the pages."""

from __future__ import annotations

import re
from functools import lru_cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

_CODE = re.compile(r"`([^`\n]+)`")
_ADDRESS = re.compile(r"https://\S+?(?=\)?[.;,:]?(?:\s|$))")
"""An address, which may have brackets of its own, without the mark of punctuation that follows it."""


@lru_cache
def load_templates() -> Environment:
    """Templates beside this file; an undefined variable is an error, and all data is escaped."""
    environment = Environment(
        loader=PackageLoader("dpo_recipes.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["prose"] = mark_prose
    return environment


def mark_prose(text: str) -> Markup:
    """The text of a finding as HTML: what stands in backticks as code, and addresses as links."""
    marked = _CODE.sub(r"<code>\1</code>", str(escape(text)))
    return Markup(
        _ADDRESS.sub(lambda found: f'<a class="address" href="{found[0]}" rel="noreferrer">{found[0]}</a>', marked)
    )
