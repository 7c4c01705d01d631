"""Metrics on held-out pairs, under TRL's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

METRICS = (
    "loss",
    "rewards/accuracies",
    "rewards/margins",
    "rewards/chosen",
    "rewards/rejected",
    "logps/chosen",
    "logps/rejected",
)


def name_as_test(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics of an evaluation on the test pairs, all renamed to `test_...`: TRL 1.16 always prefixes its own metrics
    with `eval_`."""
    return {f"test_{name.removeprefix('test_').removeprefix('eval_')}": value for name, value in logs.items()}


def evaluate_pairs(trainer: Any) -> dict[str, float]:
    """Loss, reward accuracy and margin, and mean log-probabilities (nats, summed over an answer's tokens) of the
    policy as it is now, on the held-out pairs (`eval_...`) and on the test pairs (`test_...`).

    Of the untouched base, loss is log 2, margins are 0 and the accuracy is 0 by definition: it is its own reference,
    and TRL counts a pair as right only when the chosen reward is strictly higher.
    """
    metrics: dict[str, float] = {}
    if trainer.eval_dataset is not None:
        state = trainer.state
        of_this_step = (
            row for row in reversed(state.log_history) if "eval_loss" in row and row["step"] == state.global_step
        )
        # With `eval_steps`, the trainer has just evaluated its last step, and the weights have not changed since.
        measured = next(of_this_step, None) or trainer.evaluate()
        metrics |= {f"eval_{name}": measured[f"eval_{name}"] for name in METRICS}
    if trainer.test_dataset is not None:
        measured = trainer.evaluate_test()
        metrics |= {f"test_{name}": measured[f"test_{name}"] for name in METRICS}
    return metrics
