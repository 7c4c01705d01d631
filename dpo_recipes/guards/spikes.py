"""Spikes of the training loss and of the gradient norm."""

from __future__ import annotations

import statistics

from pydantic import Field

from dpo_recipes.errors import Reference
from dpo_recipes.guards.base import Guard, History, Job, Sighting, number, numbers

_WINDOW, _FEWEST = 100, 20
"""The rows before a spike that it is compared with: OLMo 2 uses 1,000 values, more than most preference runs log."""
_SHARE_OF_FIRST = 0.1
"""A spike is also a tenth of the first value above the mean: the loss of a run that has learned its pairs by heart
varies by many of its tiny deviations."""
_TIMES_MEAN = {"loss": 1.0, "grad_norm": 10.0}
"""A spike is also this many times the mean. Norms of small batches have rare large values in healthy runs: that of a
tiny model was 5 times the mean and 10 deviations above it."""
_NAMES = {"loss": "training loss", "grad_norm": "gradient norm"}


class Spikes(Guard):
    """Spikes: a training loss or gradient norm far above those of the rows before."""

    deviations: float = Field(
        default=7.0,
        gt=0.0,
        description="Standard deviations above the mean of the last 100 rows from which a value counts as a spike.",
    )

    name = "spikes"
    code = "T652"
    fires = (
        "the training loss or the gradient norm is 7 standard deviations (`deviations`) and a tenth of its first value "
        f"above its mean over the last {_WINDOW} logged rows, of which there are {_FEWEST} or more; the gradient norm "
        "is also 10 times that mean"
    )
    reason = (
        "a spike is a step that was too large or a batch unlike the others, and after it a model can be worse than "
        "before or diverge; OLMo 2 counts values 7 deviations away as spikes, and PaLM went back 100 steps and left "
        "out the batches"
    )
    sources = (
        Reference("OLMo et al. 2024", "https://arxiv.org/abs/2501.00656"),
        Reference("Chowdhery et al. 2022, section 5.1", "https://arxiv.org/abs/2204.02311"),
    )
    is_about_quality = False  # later steps may have mended it
    kinds = ("training",)

    def look(self, job: Job, history: History) -> Sighting | None:
        """Compare the newest row with those before it."""
        *before, newest = history.training[-_WINDOW - 1 :]
        moves = job.objective.reference(job.params) == "live"  # the loss rises whenever the reference has moved
        for key, name in _NAMES.items():
            value, earlier = number(newest, key), numbers(before, key)
            first = number(history.training[0], key)
            if value is None or first is None or len(earlier) < _FEWEST or (key == "loss" and moves):
                continue
            mean, deviation = statistics.fmean(earlier), statistics.stdev(earlier)
            limit = mean + max(self.deviations * deviation, _SHARE_OF_FIRST * abs(first))
            if value > max(limit, _TIMES_MEAN[key] * mean):
                return Sighting(
                    f"the {name} jumped to {value:.4g} at step {newest['step']}; before, it was {mean:.4g} ± "
                    f"{deviation:.2g} over {len(earlier)} logged rows",
                    "look at the rows of that step in the data; if it happens again, lower `training.learning_rate` or "
                    "`training.max_grad_norm`, or raise `training.warmup_ratio`",
                )
        return None
