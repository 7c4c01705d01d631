"""Direct preference optimization, with TRL's DPOTrainer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from dpo_recipes.errors import Finding
from dpo_recipes.objectives.base import Advice, Locate, Objective, ObjectiveParams, ReferenceKind, RowCounts
from dpo_recipes.objectives.dpo_checks import check_dpo, sorting_losses
from dpo_recipes.objectives.metric import LOSS
from dpo_recipes.objectives.pair_metrics import (
    ACCURACY,
    CHOSEN_LOGPS,
    CHOSEN_REWARD,
    IMPLICIT_REWARDS,
    MARGIN,
    REJECTED_LOGPS,
    REJECTED_REWARD,
    SATURATED,
)
from dpo_recipes.objectives.rates import PREFERENCE_RATES, LearningRates

if TYPE_CHECKING:
    from dpo_recipes.recipe.schema import Recipe

DpoLoss = Literal[
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
    "sigmoid_norm",
]


class DpoParams(ObjectiveParams):
    """Direct preference optimization (Rafailov et al. 2023, https://arxiv.org/abs/2305.18290) and its variants, as
    implemented in TRL 1.16."""

    kind: Literal["dpo"] = Field(description="The objective.")
    beta: float = Field(
        default=0.1,
        gt=0.0,
        description="How strongly the policy is kept near the reference: a higher value keeps it closer. Usual: 0.01 "
        "to 0.5. For `ipo` it is tau of the paper.",
    )
    loss_type: DpoLoss | list[DpoLoss] = Field(
        default="sigmoid",
        description="The loss: `sigmoid` is DPO as published, `ipo` https://arxiv.org/abs/2310.12036, `robust` "
        "https://arxiv.org/abs/2403.00409, `apo_zero` and `apo_down` https://arxiv.org/abs/2408.06266; TRL's "
        "documentation describes the others. The losses of a list are summed with `loss_weights`.",
    )
    loss_weights: list[float] | None = Field(
        default=None, description="One weight for each loss of a `loss_type` list. Absent: every weight is 1."
    )
    label_smoothing: float = Field(
        default=0.0,
        ge=0.0,
        lt=0.5,
        description="The assumed share of flipped labels. Used by `robust` (0.1 in the paper), `exo_pair` (1e-3 in "
        "the paper), `aot` and `aot_unpaired`.",
    )
    f_divergence_type: Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"] = Field(
        default="reverse_kl",
        description="The divergence that keeps the policy near the reference. `reverse_kl` is DPO; the others are "
        "f-DPO (https://arxiv.org/abs/2309.16240).",
    )
    f_alpha_divergence_coef: float = Field(
        default=0.5,
        description="The alpha of `f_divergence_type: alpha_divergence`. 1 is `reverse_kl`; the default is TRL's.",
    )
    ld_alpha: float | None = Field(
        default=None,
        ge=0.0,
        le=1.0,
        description="The weight of the tokens of the longer answer beyond the length of the shorter one, against a "
        "preference for long answers (LD-DPO, https://arxiv.org/abs/2409.06411). 1 counts them like the others, as DPO "
        "does, and 0 leaves them out. Absent: 1.",
    )
    use_weighting: bool = Field(
        default=False,
        description="Whether each pair is weighted by how likely its answers are under the policy (WPO, "
        "https://arxiv.org/abs/2406.11827), for pairs that other models have written.",
    )
    sync_ref_model: bool = Field(
        default=False,
        description="Whether the reference moves towards the policy during training (TR-DPO, "
        "https://arxiv.org/abs/2404.09656). Its log-probabilities are then computed in each step, and a copy of all "
        "trained weights stays in memory.",
    )
    ref_model_mixup_alpha: float = Field(
        default=0.6,
        gt=0.0,
        le=1.0,
        description="The share of the policy in the moving reference's new weights: 1 replaces the reference by the "
        "policy. The default is TRL's.",
    )
    ref_model_sync_steps: int = Field(
        default=512,
        ge=1,
        description="The moving reference is updated each time after this number of optimizer steps. The default is "
        "TRL's.",
    )
    discopop_tau: float = Field(
        default=0.05,
        gt=0.0,
        description="The temperature of `loss_type: discopop` (0.05 in its paper, https://arxiv.org/abs/2406.08414).",
    )


_MOVED_REFERENCE = (
    "The reference has moved towards the tuned model during training, so that rewards, margin, accuracy and loss are "
    "those over the last reference and not over the base."
)
BETA_RANGE = (0.001, 10.0)


class Dpo(Objective):
    """Learns from pairs, with the untouched base as a frozen reference."""

    kind = "dpo"
    params = DpoParams
    rows = "pair"
    trainer = "dpo_recipes.engine.dpo_trainer:PretokenizedDPOTrainer"
    best_metric = "loss"
    metrics = (
        LOSS,
        replace(ACCURACY, is_tied_at_base=True),
        replace(MARGIN, base_value=0.0),
        replace(CHOSEN_REWARD, base_value=0.0),
        replace(REJECTED_REWARD, base_value=0.0),
        replace(CHOSEN_LOGPS, description=f"Summed over an answer's tokens. {CHOSEN_LOGPS.description}"),
        REJECTED_LOGPS,
        SATURATED,
    )
    metrics_note = IMPLICIT_REWARDS

    def title(self, params: DpoParams) -> str:
        """The objective with its losses."""
        return f"DPO ({' + '.join(losses_of(params))})"

    def describe_metrics(self, params: DpoParams) -> str:
        """Also that a moving reference has moved."""
        return f"{self.metrics_note} {_MOVED_REFERENCE}" if params.sync_ref_model else self.metrics_note

    def reference(self, params: DpoParams) -> ReferenceKind:
        """The untouched base, whose log-probabilities are computed once, or a copy that moves towards the policy."""
        return "live" if params.sync_ref_model else "frozen"

    def couples_batch(self, params: DpoParams) -> bool:
        """AOT sorts the rewards of a micro-batch."""
        return bool(sorting_losses(losses_of(params)))

    def averages_tokens(self, params: DpoParams) -> bool:
        """The loss `sft` is a mean over the tokens of a micro-batch."""
        return "sft" in losses_of(params)

    def saturates(self, params: DpoParams) -> bool:
        """The loss `sigmoid` alone: the likelihood of the chosen answer has a gradient at any margin. With a moving
        reference, margins return to 0 and the loss rises whenever it moves."""
        is_logistic = set(losses_of(params)) == {"sigmoid"} and params.f_divergence_type == "reverse_kl"
        return is_logistic and not params.sync_ref_model

    def head_outputs(self, params: DpoParams) -> tuple[str, ...]:
        """What TRL's DPOTrainer asks of its head."""
        outputs = ("log_probs", "entropy", "mean_logits", "is_top1")
        return (*outputs, "log_sum_sq_probs") if params.use_weighting else outputs

    def learning_rates(self, params: DpoParams) -> LearningRates | None:
        """None for supervised fine-tuning, `loss_type: sft` alone, whose usual rates differ."""
        return None if losses_of(params) == ("sft",) else PREFERENCE_RATES

    def advise(self, recipe: Recipe, counts: RowCounts) -> Iterator[Advice]:
        """F796, for the loss of the DPO paper only: in other losses `beta` has other units (in `ipo` it is tau)."""
        params = _params(recipe)
        low, high = BETA_RANGE
        if "sigmoid" not in losses_of(params) or low <= params.beta <= high:
            return
        beta, is_low = params.beta, params.beta < low
        moved = f"{2 / beta:,.0f} nats" if is_low else f"{2 / beta:.2g} nats"
        effect = "may drift far from the reference" if is_low else "hardly moves away from the reference"
        yield Advice(
            "F796",
            ("objective", "beta"),
            f"with a beta of {beta:g} the model {effect}",
            "the loss is nearly zero at a margin of 2, when the answers' log-probabilities have moved apart by "
            f"2 / beta = {moved}",
            "start from `beta: 0.1`",
        )

    def check(self, recipe: Recipe, locate: Locate) -> Iterator[Finding]:
        """R311 to R313, R356, R358 and R396: settings that do not fit together."""
        yield from check_dpo(recipe, losses_of(_params(recipe)), locate)


def _params(recipe: Recipe) -> DpoParams:
    params = recipe.objective
    assert isinstance(params, DpoParams)
    return params


def losses_of(params: DpoParams) -> tuple[str, ...]:
    """The losses, of which there is mostly one."""
    return (params.loss_type,) if isinstance(params.loss_type, str) else tuple(params.loss_type)


OBJECTIVE = Dpo()
