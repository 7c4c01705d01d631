"""ORPO: imitate the chosen answer, and raise its odds over those of the rejected one, without a reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from dpo_recipes.objectives.base import BatchShape, Objective, ObjectiveParams
from dpo_recipes.objectives.metric import Metric
from dpo_recipes.objectives.rates import LearningRates, RateRange
from dpo_recipes.objectives.reference_free import METRICS, answer_logps, chosen_nll, reward_metrics, token_mean
from dpo_recipes.objectives.scores import Loss, Scores

if TYPE_CHECKING:
    from torch import Tensor


class OrpoParams(ObjectiveParams):
    """Odds ratio preference optimization (Hong et al. 2024, https://arxiv.org/abs/2403.07691): supervised fine-tuning
    on the chosen answer plus a term that raises its odds over those of the rejected answer. It needs no reference, and
    no supervised fine-tuning before it."""

    kind: Literal["orpo"] = Field(description="The objective.")
    beta: float = Field(
        default=0.1,
        gt=0.0,
        description="The weight of the odds-ratio term: lambda of the paper, `alpha` of its authors' code. The paper "
        "used 0.1 to 0.25 and studied up to 1.",
    )
    nll_on_prompt: bool = Field(
        default=False,
        description="Whether the log-likelihood also covers the prompt. The paper defines it on the chosen answer; TRL "
        "and the authors' code include the prompt, and `true` reproduces their loss.",
    )


class Orpo(Objective):
    """Learns from pairs, without a reference."""

    kind = "orpo"
    params = OrpoParams
    rows = "pair"
    metrics = (
        *METRICS,
        Metric("log_odds_chosen", "Log odds ratio", is_signed=True, higher_is_better=True),
        Metric("log_odds_ratio", "Log sigmoid of the log odds ratio", higher_is_better=True),
    )

    def logps_are_token_means(self, params: OrpoParams) -> bool:
        """In any case."""
        return True

    def averages_tokens(self, params: OrpoParams) -> bool:
        """The log-likelihood is a mean over the tokens of a micro-batch, as in TRL and the authors' code."""
        return True

    def batch_shape(self, params: OrpoParams) -> BatchShape:
        """Two answers; with `nll_on_prompt` the head also scores the prompt."""
        return BatchShape(2, scores_prompt=params.nll_on_prompt)

    def learning_rates(self, params: OrpoParams) -> LearningRates | None:
        """Higher than those of DPO, because ORPO also is the supervised fine-tuning."""
        return ORPO_RATES

    def loss(self, params: OrpoParams, scores: Scores) -> Loss:
        """Equation 6 of the paper. Log-probabilities are per token."""
        from torch.nn.functional import logsigmoid

        logps = chosen, rejected = answer_logps(scores, per_token=True)
        log_odds = (chosen - rejected) - (_log1mexp(chosen) - _log1mexp(rejected))
        ratio = logsigmoid(log_odds)
        nll, counts = chosen_nll(scores, with_prompt=params.nll_on_prompt)
        metrics = reward_metrics(logps, (params.beta * chosen, params.beta * rejected))
        metrics |= {
            "nll_loss": (nll.detach(), counts),
            "log_odds_chosen": log_odds.detach(),
            "log_odds_ratio": ratio.detach(),
        }
        return Loss(scores.weighted(token_mean(nll, counts) - params.beta * ratio), metrics)


def _log1mexp(logps: Tensor) -> Tensor:
    """log(1 - exp(logps)). An answer of probability 1 has infinite odds; its log-probability is taken as -1e-6, so that
    loss and gradients stay finite, where TRL returns NaN."""
    import torch

    return torch.log(-torch.expm1(logps.clamp(max=-1e-6)))


ORPO_RATES = LearningRates(
    # 8e-6 (the paper, up to 7B), 5e-6 (Zephyr ORPO, 141B), 1e-6 (TRL's default).
    full=RateRange(1e-6, 2e-5, 8e-6),
    # Some ten times as much (LoRA Without Regret, https://thinkingmachines.ai/blog/lora/).
    lora=RateRange(5e-6, 2e-4, 5e-5),
)

OBJECTIVE = Orpo()
