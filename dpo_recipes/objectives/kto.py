"""KTO: learn from single answers that are labelled good or bad."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from dpo_recipes.errors import Finding
from dpo_recipes.objectives.base import Advice, BatchShape, Locate, Objective, ObjectiveParams, ReferenceKind, RowCounts
from dpo_recipes.objectives.metric import LOSS, Metric
from dpo_recipes.objectives.pair_metrics import (
    ACCURACY,
    CHOSEN_LOGPS,
    CHOSEN_REWARD,
    IMPLICIT_REWARDS,
    MARGIN,
    REJECTED_LOGPS,
    REJECTED_REWARD,
)
from dpo_recipes.objectives.rates import LearningRates, RateRange
from dpo_recipes.objectives.scores import Loss, Scores

if TYPE_CHECKING:
    from torch import Tensor

    from dpo_recipes.recipe.schema import Recipe


class KtoParams(ObjectiveParams):
    """Kahneman-Tversky optimization (Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306): learns from single
    answers with a label, thumbs up or down. Pairs are split into a good and a bad answer each."""

    kind: Literal["kto"] = Field(description="The objective.")
    beta: float = Field(
        default=0.1,
        gt=0.0,
        description="How strongly the policy is kept near the reference: a higher value keeps it closer. 0.1 in the "
        "paper; usual: 0.01 to 0.5.",
    )
    loss_type: Literal["kto", "apo_zero_unpaired"] = Field(
        default="kto",
        description="`kto` compares the reward of an answer with the KL divergence from the reference, which is "
        "estimated on answers to other prompts. `apo_zero_unpaired` compares it with 0, which takes half the time, for "
        "data whose good answers are better than those of the model (https://arxiv.org/abs/2408.06266).",
    )
    desirable_weight: float = Field(
        default=1.0,
        ge=0.0,
        description="The weight of the losses of good answers. The paper's advice: choose one of the two weights so "
        "that weight × number of good answers is 1 to 4/3 of weight × number of bad answers.",
    )
    undesirable_weight: float = Field(default=1.0, ge=0.0, description="The weight of the losses of bad answers.")


class Kto(Objective):
    """Learns from labelled rows, with the untouched base as a frozen reference."""

    kind = "kto"
    params = KtoParams
    rows = "labelled"
    metrics = (
        LOSS,
        replace(
            ACCURACY,
            is_tied_at_base=True,
            chance=None,  # it depends on the number of rows of each class
            description="Share of answers whose reward is on the right side of the KL estimate.",
        ),
        replace(MARGIN, base_value=0.0, description="Mean reward of the good answers minus that of the bad ones."),
        replace(CHOSEN_REWARD, label="Reward of good answers", base_value=0.0),
        replace(REJECTED_REWARD, label="Reward of bad answers", base_value=0.0),
        Metric("kl", "KL divergence from the reference", base_value=0.0),
        replace(CHOSEN_LOGPS, label="Log-probability of good answers", description="Summed over an answer's tokens."),
        replace(REJECTED_LOGPS, label="Log-probability of bad answers"),
    )
    """The keys are those of TRL's KTOTrainer, which logs no accuracy: here it is the share of answers whose reward is
    on the right side of the KL estimate."""

    metrics_note = IMPLICIT_REWARDS

    def title(self, params: KtoParams) -> str:
        """The objective with its variant."""
        return "KTO" if params.loss_type == "kto" else "KTO (APO-zero, unpaired)"

    def reference(self, params: KtoParams) -> ReferenceKind:
        """The untouched base, whose log-probabilities are computed once."""
        return "frozen"

    def couples_batch(self, params: KtoParams) -> bool:
        """The KL estimate is a mean over the micro-batch."""
        return self.adds_mismatched_answer(params)

    def adds_mismatched_answer(self, params: KtoParams) -> bool:
        """The KL divergence is estimated on answers to other prompts; `apo_zero_unpaired` does not use it."""
        return params.loss_type == "kto"

    def batch_shape(self, params: KtoParams) -> BatchShape:
        """The answer, and with it the mismatched one if the KL divergence is estimated."""
        return BatchShape(2 if self.adds_mismatched_answer(params) else 1)

    def learning_rates(self, params: KtoParams) -> LearningRates | None:
        """The authors advise against rates outside 5e-7 to 5e-6."""
        return KTO_RATES

    def check(self, recipe: Recipe, locate: Locate) -> Iterator[Finding]:
        """R351: too few rows to estimate the KL divergence; R352: both weights are 0."""
        params = recipe.objective
        assert isinstance(params, KtoParams)
        if self.couples_batch(params) and recipe.training.micro_batch_size == 1:
            yield Finding(
                "R351",
                "KTO needs a `micro_batch_size` of 2 or more",
                locate(("training", "micro_batch_size")),
                "it estimates the KL divergence from the rows of a micro-batch, and one row gives no usable mean",
                "raise `micro_batch_size` to 4 or more and lower `gradient_accumulation_steps`, or write `loss_type: "
                "apo_zero_unpaired`, which needs no estimate",
            )
        if params.desirable_weight == params.undesirable_weight == 0.0:
            yield Finding(
                "R352",
                "both weights are 0, so the loss is always 0",
                locate(("objective", "desirable_weight")),
                "`desirable_weight` multiplies the losses of good answers, `undesirable_weight` those of bad ones",
                "give at least one of them a weight above 0; 1.0 is the default",
            )

    def advise(self, recipe: Recipe, counts: RowCounts) -> Iterator[Advice]:
        """F780: weights that do not balance the classes. A single class is the error D414 of the data."""
        params = recipe.objective
        assert isinstance(params, KtoParams)
        good, bad = counts.desirable, counts.undesirable
        if good and bad and params.desirable_weight > 0.0 and params.undesirable_weight > 0.0:
            yield from _advise_weights(params, good, bad)

    def loss(self, params: KtoParams, scores: Scores) -> Loss:
        """Equations 7 and 8 of the paper; of APO's paper the unpaired form of equation 7.

        `Scores` holds the row's own answer in column 0 and, for `kto`, the mismatched one in column 1.
        """
        import torch

        assert scores.logps is not None
        assert scores.reference_logps is not None
        assert scores.labels is not None
        ratios = scores.logps - scores.reference_logps
        labels, own = scores.labels.bool(), ratios[:, 0]
        kl = self._kl(params, scores, ratios)
        signed = torch.where(labels, own - kl, kl - own)
        weights = torch.where(labels, params.desirable_weight, params.undesirable_weight)
        per_row = weights * (1 - torch.sigmoid(params.beta * signed))
        return Loss(scores.weighted(per_row), _metrics(params.beta * own, scores.logps[:, 0], signed, labels, kl))

    def _kl(self, params: KtoParams, scores: Scores, ratios: Tensor) -> Tensor:
        """The mean log-ratio of the mismatched answers of the micro-batch, at least 0, without gradients.

        Each process takes its own micro-batch, so that several processes compute what a single one computes."""
        if not self.adds_mismatched_answer(params):
            return ratios.new_zeros(())
        return ratios[:, 1].detach().mean().clamp(min=0)


def _metrics(rewards: Tensor, logps: Tensor, signed: Tensor, labels: Tensor, kl: Tensor) -> dict[str, Tensor]:
    """Means by class have values for the rows of the class only, and the margin only if both classes are present."""
    rewards, logps = rewards.detach(), logps.detach()
    good, bad = rewards[labels], rewards[~labels]
    margin = (good.mean() - bad.mean()).reshape(1) if len(good) and len(bad) else rewards[:0]
    return {
        "rewards/accuracies": (signed.detach() > 0).float(),
        "rewards/margins": margin,
        "rewards/chosen": good,
        "rewards/rejected": bad,
        "kl": kl.expand(len(labels)),
        "logps/chosen": logps[labels],
        "logps/rejected": logps[~labels],
    }


def _advise_weights(params: KtoParams, good: int, bad: int) -> Iterator[Advice]:
    low, high = WEIGHT_RATIOS
    ratio = (params.desirable_weight * good) / (params.undesirable_weight * bad)
    if low * (1 - _ROUNDING) <= ratio <= high * (1 + _ROUNDING):
        return
    # The weight of the smaller class is raised, so that the learning rate keeps its meaning for the larger one.
    if ratio < low:
        key, least, most = "desirable_weight", *(params.undesirable_weight * bad / good * each for each in (low, high))
    else:
        key, least, most = "undesirable_weight", *(params.desirable_weight * good / bad / each for each in (high, low))
    yield Advice(
        "F780",
        ("objective", key),
        f"the weights do not balance {good:,} good and {bad:,} bad answers",
        f"weight × number of the good answers is {ratio:.2g} times that of the bad ones",
        f"write `{key}: {least:.3g}`, at most {most:.3g}"
        if ratio < low
        else f"write `{key}: {most:.3g}`, at least {least:.3g}",
    )


WEIGHT_RATIOS = (1.0, 4 / 3)
"""The paper's range of weight × number of good answers over that of bad answers (Eq. 8, as TRL cites it)."""
_ROUNDING = 0.02
"""Weights are written with two decimals."""

KTO_RATES = LearningRates(
    # 5e-7 to 5e-6 (the authors' advice in TRL's documentation), at most 1e-6 with a beta of 0.1; 5e-6 (the authors'
    # example for Llama 3, 8B), 1e-6 (TRL's default).
    full=RateRange(5e-7, 5e-6, 1e-6),
    # Some ten times as much (LoRA Without Regret, https://thinkingmachines.ai/blog/lora/).
    lora=RateRange(5e-6, 2e-4, 1e-5),
)

OBJECTIVE = Kto()
