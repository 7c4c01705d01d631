"""Chance: after many training pairs the model ranks held-out pairs no better than guessing."""

from __future__ import annotations

from pydantic import Field

from dpo_recipes.errors import Reference
from dpo_recipes.guards.base import Guard, History, Job, Sighting, number
from dpo_recipes.significance import accuracy_interval


class Chance(Guard):
    """Chance: the held-out accuracy cannot be told from guessing after many training pairs."""

    after_rows: int = Field(
        default=500, ge=1, description="The number of training pairs after which the accuracy should be above chance."
    )

    name = "chance"
    code = "T656"
    fires = "after 500 training pairs (`after_rows`), the 95 % interval of the held-out accuracy is not above guessing"
    reason = (
        "the model did not learn which answer is better, or there are too few held-out pairs to show it; if the "
        "accuracy is below chance, the columns of the chosen and rejected answers may be swapped"
    )
    sources = (
        Reference("Wilson 1927", "https://doi.org/10.1080/01621459.1927.10502953"),
        Reference("Miller 2024", "https://arxiv.org/abs/2411.00640"),
    )
    kinds = ("evaluation",)

    def watches(self, job: Job) -> bool:
        """The objective ranks pairs."""
        return job.ranking is not None and job.num_eval_rows > 0

    def look(self, job: Job, history: History) -> Sighting | None:
        """The newest evaluation, if enough rows were trained on before it."""
        newest, ranking = history.evaluations[-1], job.ranking
        num_trained = newest["step"] * job.rows_per_step
        if ranking is None or ranking.chance is None or num_trained < self.after_rows:
            return None
        accuracy = number(newest, f"eval_{ranking.key}")
        if accuracy is None:
            return None
        low, high = accuracy_interval(accuracy, job.num_eval_rows)
        if low > ranking.chance:
            return None
        compared = "does not tell it from" if high >= ranking.chance else "is below"
        return Sighting(
            f"{accuracy:.1%} of {job.num_eval_rows:,} held-out pairs are ranked right at step {newest['step']}, after "
            f"{num_trained:,} training pairs: the 95 % interval, {low:.1%} to {high:.1%}, {compared} guessing "
            f"({ranking.chance:.0%})",
            "look at pairs with `dpo-recipe data`: is the chosen answer the better one? Then raise "
            "`training.learning_rate`, or hold out more pairs",
        )
