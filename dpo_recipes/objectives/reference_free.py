"""What ORPO, CPO and SimPO share: losses of pairs that contain the log-likelihood of the chosen answer and need no
reference."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dpo_recipes.objectives.metric import LOSS, Metric
from dpo_recipes.objectives.pair_metrics import (
    ACCURACY,
    CHOSEN_LOGPS,
    CHOSEN_REWARD,
    MARGIN,
    REJECTED_LOGPS,
    REJECTED_REWARD,
)
from dpo_recipes.objectives.scores import Scores

if TYPE_CHECKING:
    from torch import Tensor

METRICS = (
    LOSS,
    ACCURACY,
    MARGIN,
    CHOSEN_REWARD,
    REJECTED_REWARD,
    replace(CHOSEN_LOGPS, decimals=2),
    replace(REJECTED_LOGPS, decimals=2),
    Metric("nll_loss", "Negative log-likelihood of the chosen answer", higher_is_better=False),
)
"""The keys are those of TRL's trainers. The rewards of the untouched base are not 0, because nothing is subtracted."""


def answer_logps(scores: Scores, *, per_token: bool) -> tuple[Tensor, Tensor]:
    """[B] each: the log-probabilities of the chosen and of the rejected answers, as sums or per token."""
    assert scores.logps is not None
    logps = scores.logps
    if per_token:
        assert scores.num_tokens is not None
        logps = logps / scores.num_tokens
    return logps[:, 0], logps[:, 1]


def chosen_nll(scores: Scores, *, with_prompt: bool = False) -> tuple[Tensor, Tensor]:
    """[B] each: the negative log-likelihood of the chosen answers as sums over tokens, and the numbers of tokens."""
    assert scores.logps is not None
    assert scores.num_tokens is not None
    sums, counts = scores.logps[:, 0], scores.num_tokens[:, 0]
    if with_prompt:
        assert scores.prompt_logps is not None
        assert scores.num_prompt_tokens is not None
        sums, counts = sums + scores.prompt_logps, counts + scores.num_prompt_tokens
    return -sums, counts


def token_mean(sums: Tensor, counts: Tensor) -> Tensor:
    """[B]: values whose mean over the rows is the mean over all tokens of the micro-batch, as in the authors' code of
    ORPO and CPO, from the sum and the number of tokens of each row."""
    return sums * (len(sums) / counts.sum().clamp(min=1))


def reward_metrics(logps: tuple[Tensor, Tensor], rewards: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """The metrics of a pair's two log-probabilities and two rewards, [B] each."""
    chosen, rejected = rewards[0].detach(), rewards[1].detach()
    return {
        "rewards/accuracies": (chosen > rejected).float(),
        "rewards/margins": chosen - rejected,
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "logps/chosen": logps[0].detach(),
        "logps/rejected": logps[1].detach(),
    }
