"""Jobs for tests of advice: a job without any advice, and parts to replace in it."""

from __future__ import annotations

from typing import Any

from dpo_recipes.errors import Finding
from dpo_recipes.fit.advice.rules import advise
from dpo_recipes.fit.facts import JobFacts
from dpo_recipes.recipe.schema import Recipe

LORA_ADAPTER = {"kind": "lora", "r": 16, "alpha": 32}
FULL_TUNING = {"model": {"adapter": None}}


def make_recipe(**sections: dict[str, Any]) -> Recipe:
    """A sensible LoRA recipe with parts replaced; `adapter=None` in `model` makes it full fine-tuning."""
    return Recipe.model_validate(
        {
            "schema": 1,
            "name": "job",
            "model": {"path": "owner/model", "adapter": LORA_ADAPTER, **sections.get("model", {})},
            "data": {"train": [{"path": "owner/pairs"}], **sections.get("data", {})},
            "objective": {"kind": "dpo", **sections.get("objective", {})},
            "training": {"learning_rate": 1e-5, **sections.get("training", {})},
            "checkpoints": sections.get("checkpoints", {}),
        }
    )


def make_facts(known: dict[str, Any] | None = None, **sections: dict[str, Any]) -> JobFacts:
    """The facts of a job without any advice, with some replaced."""
    usual = {"num_train_rows": 5000, "num_eval_rows": 500, "truncated_share": 0.01, "dropped_overlong_share": 0.0}
    return JobFacts(make_recipe(**sections), **{**usual, **(known or {})})


def codes(facts: JobFacts) -> list[str]:
    """The codes of all advice on a job, in order."""
    return [finding.code for finding in advise(facts)]


def only(facts: JobFacts) -> Finding:
    """The only advice on a job."""
    (finding,) = advise(facts)
    return finding
