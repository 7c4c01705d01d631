"""Likelihood displacement: the chosen answers become less likely while the margin over the rejected ones grows."""

from __future__ import annotations

import math

from pydantic import Field

from dpo_recipes.errors import Reference
from dpo_recipes.guards.base import Guard, History, Job, Sighting, number

_LOGPS, _MARGIN = "logps/chosen", "rewards/margins"


class Displacement(Guard):
    """Likelihood displacement: held-out chosen answers become less likely than under the base while margins grow."""

    nats_per_token: float = Field(
        default=0.01,
        ge=0.0,
        description="The decrease of the mean log-probability of a token, against the untouched base, that is too "
        "much. 0.01 makes an answer of 70 tokens half as likely.",
    )

    name = "displacement"
    code = "T653"
    fires = (
        "the log-probability of held-out chosen answers is more than 0.01 nats per token (`nats_per_token`) below that "
        "of the base, while the margin is above that of the base"
    )
    reason = (
        "the model learns to make both answers less likely, the chosen ones only more slowly; their probability moves "
        "to answers that nobody compared, in the worst case to the opposite of the chosen ones, such as from refusing "
        "to harmful answers"
    )
    sources = (
        Reference("Razin et al. 2024", "https://arxiv.org/abs/2410.08847"),
        Reference("Pal et al. 2024", "https://arxiv.org/abs/2402.13228"),
    )
    kinds = ("evaluation",)

    def watches(self, job: Job) -> bool:
        """The objective compares answers and has their log-probabilities."""
        return job.has_metrics(_LOGPS, _MARGIN) and job.chosen_tokens is not None

    def look(self, job: Job, history: History) -> Sighting | None:
        """Compare with the evaluation of the base, which is the reference where the objective has a frozen one."""
        base, newest = history.base, history.evaluations[-1]
        values = [number(row, f"eval_{key}") for key in (_LOGPS, _MARGIN) for row in (base, newest)]
        if newest["step"] == 0 or None in values or job.chosen_tokens is None:
            return None
        logps_before, logps, margin_before, margin = (value for value in values if value is not None)
        is_mean = job.objective.logps_are_token_means(job.params)
        per_token = (logps - logps_before) / (1.0 if is_mean else job.chosen_tokens)
        if per_token >= -self.nats_per_token or margin <= margin_before:
            return None
        label = job.objective.metric(_LOGPS).label.lower()
        share = math.exp(per_token * job.chosen_tokens)
        return Sighting(
            f"the held-out {label} is {-per_token:.3f} nats per token below that of the base at step {newest['step']}, "
            f"while the margin rose from {margin_before:.3f} to {margin:.3f}: with {job.chosen_tokens:.0f} tokens, an "
            f"answer is {share:.2g} times as likely",
            "add the likelihood of the chosen answers to the loss (`loss_type: [sigmoid, sft]` in `dpo`, `cpo_alpha` "
            "in `cpo` and `simpo`), lower `training.learning_rate`, or leave out pairs with nearly equal answers",
        )
