"""Sequence likelihood calibration, an objective that is not part of dpo-recipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from dpo_recipes.error_codes import CodeEntry
from dpo_recipes.errors import Finding
from dpo_recipes.objectives.base import Advice, Locate, Objective, ObjectiveParams, RowCounts
from dpo_recipes.objectives.metric import LOSS, Metric
from dpo_recipes.objectives.rates import PREFERENCE_RATES, LearningRates
from dpo_recipes.objectives.scores import Loss, Scores

if TYPE_CHECKING:
    from dpo_recipes.recipe.schema import Recipe


class SlicParams(ObjectiveParams):
    """Sequence likelihood calibration (SLiC-HF, Zhao et al. 2023, https://arxiv.org/abs/2305.10425), without its
    regularization."""

    kind: Literal["slic"] = Field(description="The objective.")
    delta: float = Field(
        default=1.0,
        gt=0.0,
        description="The difference of log-probabilities beyond which a pair has no loss, in nats. 1.0 in the paper.",
    )
    per_token: bool = Field(default=False, description="Compare means over the tokens of an answer instead of sums.")


class Slic(Objective):
    """A hinge on the difference of the two answers' log-probabilities, without a reference."""

    kind = "slic"
    params = SlicParams
    rows = "pair"
    best_metric = "calibrated"
    metrics = (
        LOSS,
        Metric("calibrated", "Pairs beyond delta", 1, is_share=True, higher_is_better=True, is_shown_live=True),
        Metric("log_ratio", "Log-ratio of the answers", is_signed=True, higher_is_better=True),
    )
    codes = {  # noqa: RUF012
        "R901": CodeEntry("a delta that no pair reaches", "Means over tokens rarely differ by more than 5 nats.")
    }

    def learning_rates(self, params: SlicParams) -> LearningRates | None:
        """Those of preference optimization."""
        return PREFERENCE_RATES

    def check(self, recipe: Recipe, locate: Locate) -> Iterator[Finding]:
        """R901."""
        params = recipe.objective
        assert isinstance(params, SlicParams)
        if params.per_token and params.delta > 5.0:
            yield Finding(
                "R901",
                f"no pair reaches a `delta` of {params.delta:g} per token",
                locate(("objective", "delta")),
                "means over tokens rarely differ by more than 5 nats, so every pair keeps its loss",
                "lower `delta`, or write `per_token: false`",
            )

    def advise(self, recipe: Recipe, counts: RowCounts) -> Iterator[Advice]:
        """F901."""
        params = recipe.objective
        assert isinstance(params, SlicParams)
        if params.delta > 100.0:
            yield Advice(
                "F901",
                ("objective", "delta"),
                f"few pairs reach a `delta` of {params.delta:g}",
                "the paper uses 1.0",
                "start from `delta: 1.0`",
            )

    def loss(self, params: SlicParams, scores: Scores) -> Loss:
        """max(0, delta - log p(chosen) + log p(rejected))."""
        assert scores.logps is not None
        assert scores.num_tokens is not None
        logps = scores.logps / scores.num_tokens if params.per_token else scores.logps
        log_ratio = logps[:, 0] - logps[:, 1]
        reached = (log_ratio.detach() >= params.delta).float()
        per_row = (params.delta - log_ratio).clamp(min=0)
        return Loss(scores.weighted(per_row), {"calibrated": reached, "log_ratio": log_ratio.detach()})


OBJECTIVE = Slic()
