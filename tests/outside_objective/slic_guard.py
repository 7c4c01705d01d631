"""A guard that is not part of dpo-recipe."""

from __future__ import annotations

from pydantic import Field

from dpo_recipes.errors import Reference
from dpo_recipes.guards.base import Guard, History, Job, Sighting, number

_SHARE = "calibrated"


class Uncalibrated(Guard):
    """Uncalibrated: few held-out pairs are beyond `delta` after a number of evaluations."""

    share: float = Field(default=0.01, gt=0.0, lt=1.0, description="The share of held-out pairs that is too small.")

    name = "uncalibrated"
    code = "T901"
    fires = "less than 1 % (`share`) of the held-out pairs are beyond `delta` at an evaluation after a step"
    reason = "sequences are calibrated when their log-probabilities differ by `delta`"
    sources = (Reference("Zhao et al. 2023", "https://arxiv.org/abs/2305.10425"),)
    at = ("objective", "delta")
    kinds = ("evaluation",)

    def watches(self, job: Job) -> bool:
        """The objective counts calibrated pairs."""
        return job.has_metrics(_SHARE) and job.num_eval_rows > 0

    def look(self, job: Job, history: History) -> Sighting | None:
        """The newest evaluation."""
        newest = history.evaluations[-1]
        share = number(newest, f"eval_{_SHARE}")
        if newest["step"] == 0 or share is None or share >= self.share:
            return None
        return Sighting(
            f"{share:.0%} of the held-out pairs are beyond `delta` at step {newest['step']}",
            "lower `objective.delta`, or train longer",
        )
