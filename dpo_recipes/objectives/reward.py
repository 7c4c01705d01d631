"""Reward modelling: a model that gives the better of two answers the higher number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from dpo_recipes.errors import Finding
from dpo_recipes.objectives.base import Locate, Objective, ObjectiveParams
from dpo_recipes.objectives.metric import LOSS, Metric
from dpo_recipes.objectives.pair_metrics import ACCURACY, MARGIN, SATURATED, SATURATED_MARGIN
from dpo_recipes.objectives.rates import LearningRates, RateRange
from dpo_recipes.objectives.scores import Loss, Scores

if TYPE_CHECKING:
    from torch import Tensor

    from dpo_recipes.recipe.schema import Recipe


class RewardParams(ObjectiveParams):
    """A reward model (Bradley-Terry, as in Ouyang et al. 2022, https://arxiv.org/abs/2203.02155): the model returns one
    number for a dialogue, and learns to give the chosen answer a higher one than the rejected answer. A column of
    margins, if the data have one, says how much higher (Touvron et al. 2023, https://arxiv.org/abs/2307.09288)."""

    kind: Literal["reward"] = Field(description="The objective.")
    center_rewards_coefficient: float = Field(
        default=0.0,
        ge=0.0,
        description="The weight of a term that keeps the mean of the rewards at 0, the squared sum of a pair's two "
        "rewards (Eisenstein et al. 2023, https://arxiv.org/abs/2312.09244, which used 0.01). Useful if rewards of "
        "different models are compared or added. 0 leaves it out, as TRL does by default.",
    )


class Reward(Objective):
    """Learns from pairs, with a head that returns one number for a sequence."""

    kind = "reward"
    params = RewardParams
    rows = "pair"
    row_numbers = ("weight", "margin")
    head = "score"
    best_metric = "accuracy"
    metrics = (
        LOSS,
        replace(ACCURACY, key="accuracy", label="Accuracy"),
        replace(MARGIN, key="margin", label="Margin"),
        Metric("mean_reward", "Mean reward", is_signed=True),
        Metric("min_reward", "Lowest reward of a micro-batch", is_signed=True),
        Metric("max_reward", "Highest reward of a micro-batch", is_signed=True),
        SATURATED,
    )
    """The keys are those of TRL's RewardTrainer, which does not log the share of saturated pairs."""
    metrics_note = "The reward of an answer is the number that the model returns. The head of the base is untrained."

    def title(self, params: RewardParams) -> str:
        """The objective with its loss."""
        return "Reward model (Bradley-Terry)"

    def learning_rates(self, params: RewardParams) -> LearningRates | None:
        """From those of large decoders to those of BERT."""
        return REWARD_RATES

    def saturates(self, params: RewardParams) -> bool:
        """The loss is the logistic one of the difference, unless rewards are centered too."""
        return params.center_rewards_coefficient == 0.0

    def check(self, recipe: Recipe, locate: Locate) -> Iterator[Finding]:
        """R327: settings of generated answers and of trained turns, neither of which a reward model has."""
        evaluation, data = recipe.evaluation, recipe.data
        if "num_samples" in evaluation.model_fields_set and evaluation.num_samples > 0:
            yield _no_effect("evaluation", "num_samples", "a reward model writes no answers", "write 0", locate)
        elif "max_new_tokens" in evaluation.model_fields_set and evaluation.num_samples > 0:
            yield _no_effect("evaluation", "max_new_tokens", "a reward model writes no answers", "remove it", locate)
        if data.train_on_turns == "all":
            yield _no_effect(
                "data", "train_on_turns", "a reward model reads every turn and is trained on none", "remove it", locate
            )

    def loss(self, params: RewardParams, scores: Scores) -> Loss:
        """The negative log-likelihood of the chosen answer's victory by the margin, plus the centering term."""
        from torch.nn.functional import logsigmoid

        assert scores.values is not None
        chosen, rejected = scores.values[:, 0], scores.values[:, 1]
        difference = chosen - rejected
        if scores.margins is not None:
            difference = difference - scores.margins
        per_row = -logsigmoid(difference)
        if params.center_rewards_coefficient > 0.0:
            per_row = per_row + params.center_rewards_coefficient * (chosen + rejected) ** 2
        return Loss(scores.weighted(per_row), _metrics(scores.values.detach(), difference.detach()))


def _metrics(values: Tensor, difference: Tensor) -> dict[str, Tensor]:
    margins = values[:, 0] - values[:, 1]
    return {
        "accuracy": (margins > 0).float(),
        "margin": margins,
        "mean_reward": values.mean(dim=1),
        "min_reward": values.min().expand(len(values)),
        "max_reward": values.max().expand(len(values)),
        SATURATED.key: (difference > SATURATED_MARGIN).float(),
    }


def _no_effect(section: str, key: str, why: str, fix: str, locate: Locate) -> Finding:
    at = locate((section, key), key=True)
    return Finding("R327", f"`{section}.{key}` has no effect with `kind: reward`", at, why, fix)


REWARD_RATES = LearningRates(
    # 3e-6 (Tulu 3, 8B), 5e-6 and 1e-5 (Llama 2, 70B and smaller), 2e-5 to 5e-5 (BERT's paper), 1e-4 (TRL's default).
    full=RateRange(1e-6, 1e-4, 1e-5),
    # Some ten times as much (LoRA Without Regret, https://thinkingmachines.ai/blog/lora/).
    lora=RateRange(1e-5, 1e-3, 1e-4),
)

OBJECTIVE = Reward()
