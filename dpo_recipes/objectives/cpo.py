"""CPO and SimPO: losses of pairs on the policy's own log-probabilities, without a reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from dpo_recipes.errors import Finding
from dpo_recipes.objectives.base import Locate, Objective, ObjectiveParams
from dpo_recipes.objectives.pair_metrics import SATURATED, SATURATED_MARGIN
from dpo_recipes.objectives.rates import PREFERENCE_RATES, LearningRates, RateRange
from dpo_recipes.objectives.reference_free import METRICS, answer_logps, chosen_nll, reward_metrics, token_mean
from dpo_recipes.objectives.scores import Loss, Scores

if TYPE_CHECKING:
    from torch import Tensor

    from dpo_recipes.recipe.schema import Recipe


class CpoParams(ObjectiveParams):
    """Contrastive preference optimization (Xu et al. 2024, https://arxiv.org/abs/2401.08417): DPO with a uniform
    reference, plus supervised fine-tuning on the chosen answer."""

    kind: Literal["cpo"] = Field(description="The objective.")
    beta: float = Field(
        default=0.1,
        gt=0.0,
        description="The factor of the difference of log-probabilities. 0.1 in the paper; usual: 0.1 to 0.5. For `ipo` "
        "it is tau of its paper.",
    )
    loss_type: Literal["sigmoid", "hinge", "ipo"] = Field(
        default="sigmoid",
        description="The loss of the difference: `sigmoid` is CPO as published, `hinge` is that of SLiC "
        "(https://arxiv.org/abs/2305.10425), `ipo` that of https://arxiv.org/abs/2310.12036, on log-probabilities per "
        "token.",
    )
    label_smoothing: float = Field(
        default=0.0, ge=0.0, lt=0.5, description="The assumed share of flipped labels. Used by `sigmoid`."
    )
    cpo_alpha: float = Field(
        default=1.0,
        ge=0.0,
        description="The weight of the chosen answer's negative log-likelihood per token: 1 in the paper. 0 leaves it "
        "out.",
    )


class SimpoParams(ObjectiveParams):
    """Simple preference optimization (Meng et al. 2024, https://arxiv.org/abs/2405.14734): the reward is the average
    log-probability per token, and the chosen answer must win by a margin. Defaults are those of the authors' code."""

    kind: Literal["simpo"] = Field(description="The objective.")
    beta: float = Field(
        default=2.0,
        gt=0.0,
        description="The factor of the log-probability per token. The paper used 2 to 2.5 and later models 10, much "
        "more than DPO; TRL's default is 0.1.",
    )
    gamma: float = Field(
        default=0.5,
        ge=0.0,
        description="The margin of reward by which the chosen answer must win. The authors tune gamma / beta between 0 "
        "and 1; their code's default is 0.25 of `beta`. TRL's name is `simpo_gamma`.",
    )
    loss_type: Literal["sigmoid", "hinge"] = Field(
        default="sigmoid", description="The loss of the difference: `sigmoid` is SimPO as published."
    )
    label_smoothing: float = Field(
        default=0.0, ge=0.0, lt=0.5, description="The assumed share of flipped labels. Used by `sigmoid`."
    )
    cpo_alpha: float = Field(
        default=0.0,
        ge=0.0,
        description="The weight of the chosen answer's negative log-likelihood per token. The paper has no such term; "
        "TRL's default is 1, which is CPO-SimPO (https://github.com/fe1ixxu/CPO_SIMPO).",
    )
    alpha: float = Field(
        default=0.0,
        description="Another value than 0 changes the shape of the reward to (1 - p^-alpha) / alpha, where p is the "
        "geometric mean of the tokens' probabilities: AlphaPO (https://arxiv.org/abs/2501.03884), whose authors used "
        "0.1 to 0.25.",
    )


class _WithoutReference(Objective):
    """Learns from pairs, without a reference."""

    rows = "pair"
    metrics = (*METRICS, SATURATED)

    def saturates(self, params: CpoParams | SimpoParams) -> bool:
        """The loss `sigmoid` alone: the likelihood of the chosen answer and smoothed labels have a gradient at any
        margin."""
        return params.loss_type == "sigmoid" and params.cpo_alpha == params.label_smoothing == 0.0

    def averages_tokens(self, params: CpoParams | SimpoParams) -> bool:
        """The log-likelihood is a mean over the tokens of a micro-batch, as in TRL and the authors' code."""
        return params.cpo_alpha > 0.0

    def check(self, recipe: Recipe, locate: Locate) -> Iterator[Finding]:
        """R313: a loss that does not use label smoothing."""
        params = recipe.objective
        assert isinstance(params, CpoParams | SimpoParams)
        if params.label_smoothing > 0.0 and params.loss_type != "sigmoid":
            yield Finding(
                "R313",
                f"`label_smoothing` has no effect with {params.loss_type}",
                locate(("objective", "label_smoothing"), key=True),
                "only sigmoid uses it",
                "remove it, or write `loss_type: sigmoid`",
            )


class Cpo(_WithoutReference):
    """The difference of log-probabilities, plus the chosen answer's negative log-likelihood."""

    kind = "cpo"
    params = CpoParams

    def logps_are_token_means(self, params: CpoParams) -> bool:
        """Only in `ipo`."""
        return params.loss_type == "ipo"

    def title(self, params: CpoParams) -> str:
        """The objective with its loss."""
        return f"CPO ({params.loss_type})"

    def learning_rates(self, params: CpoParams) -> LearningRates | None:
        """Those of preference optimization: ALMA-R was trained with LoRA at 1e-4; TRL's default is 1e-6."""
        return PREFERENCE_RATES

    def loss(self, params: CpoParams, scores: Scores) -> Loss:
        """Equation 5 of the paper: the loss of the difference plus the negative log-likelihood."""
        logps = chosen, rejected = answer_logps(scores, per_token=params.loss_type == "ipo")
        difference = params.beta * (chosen - rejected)
        if params.loss_type == "ipo":
            per_row = (chosen - rejected - 1 / (2 * params.beta)) ** 2
        else:
            per_row = _difference_loss(params, difference)
        metrics = reward_metrics(logps, (params.beta * chosen, params.beta * rejected))
        return _with_nll(params, scores, per_row, metrics | _saturated(difference))


class Simpo(_WithoutReference):
    """The difference of log-probabilities per token, less a margin."""

    kind = "simpo"
    params = SimpoParams

    def logps_are_token_means(self, params: SimpoParams) -> bool:
        """In any case."""
        return True

    def title(self, params: SimpoParams) -> str:
        """The objective with its variants."""
        name = "AlphaPO" if params.alpha else "SimPO"
        return f"{'CPO-' if params.cpo_alpha else ''}{name} ({params.loss_type})"

    def learning_rates(self, params: SimpoParams) -> LearningRates | None:
        """Those of the authors, who found 1e-5 to make models incoherent."""
        return SIMPO_RATES

    def loss(self, params: SimpoParams, scores: Scores) -> Loss:
        """Equation 6 of the paper, with AlphaPO's reward if `alpha` is set."""
        logps = answer_logps(scores, per_token=True)
        chosen, rejected = (params.beta * _shape(each, params.alpha) for each in logps)
        difference = chosen - rejected - params.gamma
        metrics = reward_metrics(logps, (chosen, rejected)) | _saturated(difference)
        return _with_nll(params, scores, _difference_loss(params, difference), metrics)


def _saturated(difference: Tensor) -> dict[str, Tensor]:
    return {SATURATED.key: (difference.detach() > SATURATED_MARGIN).float()}


def _difference_loss(params: CpoParams | SimpoParams, difference: Tensor) -> Tensor:
    """[B]: the loss of the difference of two rewards."""
    from torch.nn.functional import logsigmoid, relu

    if params.loss_type == "hinge":
        return relu(1 - difference)
    smoothing = params.label_smoothing
    return -logsigmoid(difference) * (1 - smoothing) - logsigmoid(-difference) * smoothing


def _shape(logps: Tensor, alpha: float) -> Tensor:
    """AlphaPO's reward of an answer, (1 - p^-alpha) / alpha; its limit for an alpha of 0 is log p."""
    import torch

    return -torch.expm1(-alpha * logps) / alpha if alpha else logps


def _with_nll(params: CpoParams | SimpoParams, scores: Scores, per_row: Tensor, metrics: dict[str, Tensor]) -> Loss:
    """The loss with the weighted negative log-likelihood of the chosen answer, which is logged in any case: it shows
    whether the chosen answers become less likely. TRL logs 0 if its weight is 0."""
    nll, counts = chosen_nll(scores)
    if params.cpo_alpha > 0.0:
        per_row = per_row + params.cpo_alpha * token_mean(nll, counts)
    return Loss(scores.weighted(per_row), metrics | {"nll_loss": (nll.detach(), counts)})


SIMPO_RATES = LearningRates(
    # 3e-7, 5e-7, 6e-7 and 1e-6 (the authors' four models); they advise against 1e-5.
    full=RateRange(1e-7, 2e-6, 6e-7),
    # Some ten times as much (LoRA Without Regret, https://thinkingmachines.ai/blog/lora/).
    lora=RateRange(1e-6, 5e-5, 6e-6),
)

CPO = Cpo()
SIMPO = Simpo()
