"""Length: the model learns to write longer or shorter answers than the data teach."""

from __future__ import annotations

import math

from pydantic import Field

from dpo_recipes.errors import Reference
from dpo_recipes.guards.base import Guard, History, Job, Sighting, number

_FEWEST_PAIRS, _FEWEST_PROMPTS = 30, 8
"""With fewer, correlation and ratio vary by chance more than the thresholds."""
_SIMILAR = 1.5
"""The ratio of mean lengths up to which chosen and rejected answers count as about equally long. Beyond it the data
teach a length, and the margin must depend on it."""


class Length(Guard):
    """Length: the margin depends mostly on length, or generated answers change their length more than the data
    teach."""

    correlation: float = Field(
        default=0.7,
        gt=0.0,
        le=1.0,
        description="The correlation of a held-out pair's margin with the difference of its answers' lengths, positive "
        "or negative, that is too much: with 0.7, the length explains half of the margin's variance.",
    )
    change: float = Field(
        default=1.5,
        gt=1.0,
        description="The factor by which generated answers may become longer or shorter beyond the ratio of the data's "
        "chosen to rejected answers.",
    )

    name = "length"
    code = "T657"
    fires = (
        "the margins of held-out pairs have a correlation of 0.7 (`correlation`) or more with the difference of "
        f"lengths, positive or negative, although the data's answers are about equally long (mean lengths within "
        f"{_SIMILAR} times); or the tuned model's answers, compared with the base's, are 1.5 times (`change`) longer "
        "or shorter than the ratio of the data's chosen to rejected answers explains"
    )
    reason = (
        "preference data favour longer answers slightly, and DPO amplifies this: in the paper, answers became longer "
        "than any in the data, and a part of the win rate was length alone"
    )
    sources = (
        Reference("Park et al. 2024", "https://arxiv.org/abs/2403.19159"),
        Reference("Singhal et al. 2023", "https://arxiv.org/abs/2310.03716"),
    )
    at = ("data", "train")
    kinds = ("evaluation", "answers")

    def watches(self, job: Job) -> bool:
        """The objective compares answers that the model can write."""
        return job.length_ratio is not None and job.objective.head == "causal_lm"

    def look(self, job: Job, history: History) -> Sighting | None:
        """The correlation of the newest evaluation, and the generated answers after training."""
        if job.length_ratio is None:
            return None
        return self._correlated(job, job.length_ratio, history) or self._changed(job.length_ratio, history)

    def _correlated(self, job: Job, ratio: float, history: History) -> Sighting | None:
        newest = history.evaluations[-1] if history.evaluations else None
        correlation = number(newest, "eval_length_correlation")
        if newest is None or newest["step"] == 0 or correlation is None or job.num_eval_rows < _FEWEST_PAIRS:
            return None
        if abs(correlation) < self.correlation or not 1 / _SIMILAR <= ratio <= _SIMILAR:
            return None
        kind = "longer" if correlation > 0 else "shorter"
        return Sighting(
            f"the margin of a held-out pair depends on how much {kind} the chosen answer is: their correlation is "
            f"{correlation:.2f} at step {newest['step']}, although chosen answers have {ratio:.2f} times the length of "
            "rejected ones on average",
            "normalize by length (`kind: simpo`, or in `dpo` `loss_type: sigmoid_norm` or `ld_alpha`), or balance the "
            "lengths in the data",
        )

    def _changed(self, ratio: float, history: History) -> Sighting | None:
        if not history.answers:
            return None
        newest = history.answers[-1]
        base, tuned, prompts = (number(newest, f"answer_words/{name}") for name in ("base", "tuned", "prompts"))
        if not base or not tuned or not prompts or prompts < _FEWEST_PROMPTS:
            return None
        change, taught, most = math.log(tuned / base), math.log(ratio), math.log(self.change)
        if min(taught, 0.0) - most <= change <= max(taught, 0.0) + most:
            return None
        return Sighting(
            f"answers to {prompts:.0f} prompts went from {base:.1f} to {tuned:.1f} words ({tuned / base:.2f} times), "
            f"while the data's chosen answers have {ratio:.2f} times the length of the rejected ones",
            "normalize by length (`kind: simpo`, or in `dpo` `loss_type: sigmoid_norm` or `ld_alpha`), balance the "
            "lengths in the data, or lower `training.learning_rate`",
        )
