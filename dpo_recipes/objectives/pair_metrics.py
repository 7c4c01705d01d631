"""Metrics that objectives on preference pairs share, under TRL's names."""

from __future__ import annotations

from dpo_recipes.objectives.metric import Metric

ACCURACY = Metric(
    "rewards/accuracies",
    "Reward accuracy",
    1,
    is_share=True,
    higher_is_better=True,
    is_shown_live=True,
    chance=0.5,
    by_subset=True,
    short_label="accuracy",
    description="Share of pairs whose chosen answer gets the higher reward.",
)
MARGIN = Metric(
    "rewards/margins",
    "Reward margin",
    is_signed=True,
    higher_is_better=True,
    is_shown_live=True,
    short_label="margin",
    description="Reward of the chosen answer minus that of the rejected one.",
)
CHOSEN_REWARD = Metric("rewards/chosen", "Reward of the chosen answer", is_signed=True)
REJECTED_REWARD = Metric("rewards/rejected", "Reward of the rejected answer", is_signed=True)
SATURATED = Metric(
    "rewards/saturated",
    "Pairs with a margin above 4",
    1,
    is_share=True,
    description="Share of pairs whose gradient is below 2 % with a logistic loss.",
)
SATURATED_MARGIN = 4.0
"""The margin m from which a pair counts: 1 / (1 + exp(4)) is 0.018."""
CHOSEN_LOGPS = Metric(
    "logps/chosen",
    "Log-probability of the chosen answer",
    1,
    chart="Log-probability of the answers",
    description="Both falling together means that probability moves to answers outside the data.",
)
REJECTED_LOGPS = Metric(
    "logps/rejected", "Log-probability of the rejected answer", 1, chart="Log-probability of the answers"
)

IMPLICIT_REWARDS = (
    "The reward of an answer is implicit: beta times the log of the ratio of its probabilities under the model and "
    "under the reference. The base is its own reference, so its reward is 0 for every answer: its margin is 0 by "
    "definition, and its accuracy only counts ties."
)
"""The `Objective.metrics_note` of objectives with a frozen reference."""
