"""Memorizing: training pairs are ranked right much more often than held-out ones."""

from __future__ import annotations

from pydantic import Field

from dpo_recipes.errors import Reference
from dpo_recipes.guards.base import Guard, History, Job, Sighting, number
from dpo_recipes.significance import difference_interval


class Memorizing(Guard):
    """Memorizing: the accuracy on training pairs is far above that on held-out ones."""

    gap: float = Field(
        default=0.2,
        ge=0.0,
        lt=1.0,
        description="The difference of the two accuracies, between 0 and 1, that is too much. Its 95 % interval must "
        "also be above 0.",
    )

    name = "memorizing"
    code = "T655"
    fires = (
        "the accuracy on the training pairs since the last evaluation is more than 20 points (`gap`) above that on the "
        "held-out pairs, and the 95 % interval of the difference is above 0"
    )
    reason = (
        "the model recognizes its training pairs instead of what makes an answer better; Zephyr ranked all training "
        "pairs right after one epoch and still got better until the third, Tulu 3 got worse with more epochs: judge by "
        "the held-out metrics"
    )
    sources = (
        Reference("Tunstall et al. 2023", "https://arxiv.org/abs/2310.16944"),
        Reference("Lambert et al. 2024", "https://arxiv.org/abs/2411.15124"),
        Reference(
            "Newcombe 1998", "https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8%3C873::AID-SIM779%3E3.0.CO;2-I"
        ),
    )
    at = ("training", "num_epochs")
    kinds = ("evaluation",)

    def watches(self, job: Job) -> bool:
        """The objective ranks pairs."""
        return job.ranking is not None and job.num_eval_rows > 0

    def look(self, job: Job, history: History) -> Sighting | None:
        """The training rows since the evaluation before against the newest evaluation."""
        if job.ranking is None:
            return None
        newest, key = history.evaluations[-1], job.ranking.key
        held_out, (trained, num_trained) = number(newest, f"eval_{key}"), _training_accuracy(job, history, key)
        if held_out is None or not num_trained or trained - held_out <= self.gap:
            return None
        low, high = difference_interval(trained, num_trained, held_out, job.num_eval_rows)
        if low <= 0.0:
            return None
        return Sighting(
            f"{trained:.0%} of the training pairs are ranked right and {held_out:.0%} of the held-out ones at step "
            f"{newest['step']}: {100 * (trained - held_out):.0f} points less (95 % interval {100 * low:.0f} to "
            f"{100 * high:.0f})",
            "train for fewer epochs, lower `training.learning_rate` or the rank of the adapter, add pairs, or write "
            "`checkpoints: {keep_best: true}`; check that held-out pairs are from the same source",
        )


def _training_accuracy(job: Job, history: History, key: str) -> tuple[float, float]:
    """The accuracy since the evaluation before, and the number of rows that it is a mean over. A training row is the
    mean over the steps since the row before it."""
    correct = total = 0.0
    before = history.evaluations[-2]["step"] if len(history.evaluations) > 1 else 0
    for row in history.training_since_evaluation():
        num_rows = (row["step"] - before) * job.rows_per_step
        before = row["step"]
        if (accuracy := number(row, key)) is not None:
            correct, total = correct + accuracy * num_rows, total + num_rows
    return (correct / total if total else 0.0), total
