"""Metrics on held-out pairs, under TRL's names."""

from __future__ import annotations

from typing import Any

EVAL_METRICS = (
    "eval_loss",
    "eval_rewards/accuracies",
    "eval_rewards/margins",
    "eval_rewards/chosen",
    "eval_rewards/rejected",
    "eval_logps/chosen",
    "eval_logps/rejected",
)


def evaluate_pairs(trainer: Any) -> dict[str, float]:
    """Loss, reward accuracy and margin, and mean log-probabilities (nats, summed over an answer's tokens) of the
    policy as it is now on the held-out pairs.

    Of the untouched base, loss is log 2, margins are 0 and the accuracy is 0 by definition: it is its own reference,
    and TRL counts a pair as right only when the chosen reward is strictly higher.
    """
    if trainer.eval_dataset is None:
        return {}
    state = trainer.state
    of_this_step = (
        row for row in reversed(state.log_history) if "eval_loss" in row and row["step"] == state.global_step
    )
    # With `eval_steps`, the trainer has just evaluated its last step; the weights are still those.
    measured = next(of_this_step, None) or trainer.evaluate()
    return {name: measured[name] for name in EVAL_METRICS if name in measured}
