"""Warns about jobs that will run but probably give a disappointing result. Each warning has a number, a reason and
sources."""

from __future__ import annotations

from dpo_recipes.errors import Finding
from dpo_recipes.fit.advice_table import RULES, AdviceRule
from dpo_recipes.fit.facts import JobFacts
from dpo_recipes.fit.remark import Remark

__all__ = ["RULES", "AdviceRule", "JobFacts", "advise"]


def advise(facts: JobFacts) -> tuple[Finding, ...]:
    """The warnings F790 to F799 that apply to a job, in the order of their codes. Rules whose facts are unknown and
    rules that the recipe accepts yield no warning."""
    rules = [rule for rule in RULES if rule.code not in facts.recipe.accept_advice]
    return tuple(_finding(rule, remark) for rule in rules for remark in rule.look(facts))


def _finding(rule: AdviceRule, remark: Remark) -> Finding:
    return Finding(
        rule.code,
        remark.what,
        None,
        f"{remark.number}; {rule.reason} ({'; '.join(str(source) for source in rule.sources)})",
        remark.fix,
        "warning",
        remark.at,
    )
