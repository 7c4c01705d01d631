"""Drift: how far the model has moved from its base, by its own samples."""

from __future__ import annotations

from pydantic import Field

from dpo_recipes.errors import Reference
from dpo_recipes.guards.base import Guard, History, Job, Sighting, number


class Drift(Guard):
    """Drift: the KL divergence of the tuned model from its base, estimated after training on answers that it samples to
    the prompts of `evaluation`. It is shown in any case, and compared only with a budget that you set. `off` also saves
    the time of the estimate."""

    nats_per_answer: float | None = Field(
        default=None,
        gt=0.0,
        description="The divergence, in nats per answer of at most `evaluation.max_new_tokens` tokens, that is too "
        "much. null: it is shown and not compared, because no budget fits all runs.",
    )

    name = "drift"
    code = "T658"
    fires = "the divergence is above a budget that the recipe sets (`nats_per_answer`); there is no default"
    reason = (
        "answers get better and then worse as a model moves away from its base, at a divergence that depends on model, "
        "data and objective, so compare it with the held-out metrics of your own runs"
    )
    sources = (
        Reference("Gao et al. 2022", "https://arxiv.org/abs/2210.10760"),
        Reference("Rafailov et al. 2024", "https://arxiv.org/abs/2406.02900"),
    )
    kinds = ("answers",)

    def watches(self, job: Job) -> bool:
        """The model writes answers."""
        return job.objective.head == "causal_lm"

    def look(self, job: Job, history: History) -> Sighting | None:
        """The estimate after training against the budget, if there are both."""
        drift = number(history.answers[-1], "drift/nats_per_answer")
        if drift is None or self.nats_per_answer is None or drift <= self.nats_per_answer:
            return None
        return Sighting(
            f"the tuned model's own answers have moved {drift:.1f} nats per answer away from the base, above the "
            f"budget of {self.nats_per_answer:g}",
            "raise `objective.beta` where the objective has a reference, lower `training.learning_rate`, or train for "
            "fewer steps",
        )
