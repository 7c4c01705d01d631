"""Warnings about a job that will run and will probably disappoint, each with a number, a reason and a source."""

from __future__ import annotations

from collections.abc import Callable

from dpo_recipes.errors import Finding, Where
from dpo_recipes.fit.advice_table import RULES, AdviceRule
from dpo_recipes.fit.facts import JobFacts
from dpo_recipes.fit.remark import Remark
from dpo_recipes.recipe.load import DataPath

__all__ = ["RULES", "AdviceRule", "JobFacts", "advise"]

Locate = Callable[[DataPath], Where]
"""Finds the place of a value in the recipe's text: `Composed.where`."""


def advise(facts: JobFacts, where: Locate | None = None) -> tuple[Finding, ...]:
    """Warnings F790 to F799 that apply to a job, in the order of codes; a rule whose facts are not known is silent, and
    so is one that the recipe accepts."""
    rules = [rule for rule in RULES if rule.code not in facts.recipe.accept_advice]
    return tuple(_finding(rule, remark, where) for rule in rules for remark in rule.look(facts))


def _finding(rule: AdviceRule, remark: Remark, where: Locate | None) -> Finding:
    return Finding(
        rule.code,
        remark.what,
        where(remark.at) if where else None,
        f"{remark.number}; {rule.reason} ({'; '.join(str(source) for source in rule.sources)})",
        remark.fix,
        "warning",
    )
