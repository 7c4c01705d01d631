"""Renders the report of a chain as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dpo_recipes.report.table import Table
from dpo_recipes.report.templates import load_templates


@dataclass(frozen=True)
class StepSection:
    """What the report says about one step."""

    name: str
    work: str
    needs: Mapping[str, str]
    """The steps that it refers to, by the path of the reference."""
    reason: str
    """Why it has no result; empty if it has one."""
    tables: Sequence[Table]
    """Its numbers."""
    report: str | None
    """The path of its own report, relative to that of the chain."""
    product: str | None
    """The path of what it made."""


def render_chain(
    title: str, status: str, verdicts: Sequence[str], results: Sequence[Table], steps: Sequence[StepSection]
) -> str:
    """The report as the text of one HTML file."""
    template = load_templates().get_template("chain.html.jinja")
    page = template.render(title=title, status=status, verdicts=verdicts, results=results, steps=steps)
    return page.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate in a text of an error
