"""Saturation: most pairs have no gradient any more, and the held-out loss rises."""

from __future__ import annotations

import statistics

from pydantic import Field

from dpo_recipes.errors import Reference
from dpo_recipes.guards.base import Guard, History, Job, Sighting, number, numbers
from dpo_recipes.objectives.pair_metrics import SATURATED

_LOSS = "eval_loss"


class Saturation(Guard):
    """Saturation: most training pairs have a margin beyond which they have almost no gradient, and the held-out loss
    rises."""

    saturated_share: float = Field(
        default=0.5,
        gt=0.0,
        lt=1.0,
        description="The share of training pairs with a reward margin above 4, since the evaluation before, that is "
        "too much.",
    )
    loss_rise: float = Field(
        default=0.02,
        ge=0.0,
        description="The rise of the held-out loss above its lowest value so far, as a share of that value, that "
        "counts as rising.",
    )

    name = "saturation"
    code = "T654"
    fires = (
        "more than half (`saturated_share`) of the training pairs since the last evaluation have a reward margin above "
        "4, and the held-out loss is 2 % (`loss_rise`) above its lowest value so far"
    )
    reason = (
        "the gradient of a pair is multiplied with 1 / (1 + exp(margin)), which is below 2 % for a margin of 4; the "
        "steps are then made by the few other pairs, among them those with a wrong label, and the model fits these"
    )
    sources = (
        Reference("Rafailov et al. 2023, section 4", "https://arxiv.org/abs/2305.18290"),
        Reference("Azar et al. 2023, section 4.2", "https://arxiv.org/abs/2310.12036"),
    )
    at = ("training", "num_epochs")
    kinds = ("evaluation",)

    def watches(self, job: Job) -> bool:
        """The loss is a logistic one of the margin, so that the objective has the share."""
        return job.has_metrics(SATURATED.key) and job.objective.saturates(job.params)

    def look(self, job: Job, history: History) -> Sighting | None:
        """The training rows since the evaluation before, and the held-out loss against its lowest one."""
        newest, losses = history.evaluations[-1], numbers(history.evaluations[:-1], _LOSS)
        shares, loss = numbers(history.training_since_evaluation(), SATURATED.key), number(newest, _LOSS)
        if not shares or not losses or loss is None:
            return None
        share, lowest = statistics.fmean(shares), min(losses)
        if share <= self.saturated_share or loss <= lowest * (1 + self.loss_rise):
            return None
        return Sighting(
            f"{share:.0%} of the training pairs since the last evaluation have a reward margin above 4 at step "
            f"{newest['step']}, and the held-out loss has risen from {lowest:.3f} to {loss:.3f}",
            "train for fewer epochs or with a lower `training.learning_rate`, write `checkpoints: {keep_best: true}`, "
            "or, if labels may be wrong, `loss_type: robust` in `dpo`",
        )
