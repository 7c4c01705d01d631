"""Supervised fine-tuning: imitate answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dpo_recipes.objectives.base import Objective, ObjectiveParams
from dpo_recipes.objectives.metric import LOSS, Metric
from dpo_recipes.objectives.rates import LearningRates, RateRange
from dpo_recipes.objectives.scores import Loss, Scores


class SftParams(ObjectiveParams):
    """Supervised fine-tuning: the model learns to write the answers, token by token. Of pairs it imitates the chosen
    answer. The loss is the mean negative log-likelihood of the answers' tokens, as `loss_type: nll` in TRL."""

    kind: Literal["sft"] = Field(description="The objective.")


class Sft(Objective):
    """Learns from completions, without a reference."""

    kind = "sft"
    params = SftParams
    rows = "completion"
    loss_mean = "tokens"
    metrics = (
        LOSS,
        Metric(
            "mean_token_accuracy",
            "Token accuracy",
            1,
            is_share=True,
            higher_is_better=True,
            is_shown_live=True,
            description="Share of the answers' tokens that the model ranks first.",
        ),
        Metric("entropy", "Entropy per token"),
    )
    """The keys are those of TRL's SFTTrainer."""

    def head_outputs(self, params: SftParams) -> tuple[str, ...]:
        """Also what the metrics need."""
        return ("log_probs", "entropy", "is_top1")

    def learning_rates(self, params: SftParams) -> LearningRates | None:
        """Ten to a hundred times those of preference optimization."""
        return SFT_RATES

    def loss(self, params: SftParams, scores: Scores) -> Loss:
        """The sums over tokens; the engine divides by the number of tokens of the optimizer step, so that neither the
        micro-batch nor the number of processes changes the loss."""
        assert scores.logps is not None
        assert scores.num_correct is not None
        assert scores.entropies is not None
        assert scores.num_tokens is not None
        metrics = {
            "mean_token_accuracy": (scores.num_correct, scores.num_tokens),
            "entropy": (scores.entropies.detach(), scores.num_tokens),
        }
        return Loss(scores.weighted(-scores.logps[:, 0]), metrics)


SFT_RATES = LearningRates(
    # 2e-6 (Tulu 3, 70B), 5e-6 (Tulu 3, 8B), 2e-5 (Alpaca, 7B; TRL's default).
    full=RateRange(2e-6, 1e-4, 2e-5),
    # 1e-4 and 2e-4 (QLoRA, 7B to 65B); some ten times the rate of every weight (LoRA Without Regret,
    # https://thinkingmachines.ai/blog/lora/).
    lora=RateRange(2e-5, 1e-3, 2e-4),
)

OBJECTIVE = Sft()
