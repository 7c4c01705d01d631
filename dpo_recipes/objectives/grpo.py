"""GRPO: policy gradients with rewards relative to the other answers to a prompt, token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from dpo_recipes.objectives.policy import PolicyObjective, PolicyParams, clipped_gain
from dpo_recipes.objectives.scores import Loss, Scores

if TYPE_CHECKING:
    from torch import Tensor

_SMALL = 1e-4
"""Added to a deviation that may be 0, as in TRL 1.16."""


class GrpoParams(PolicyParams):
    """Group relative policy optimization (Shao et al. 2024, https://arxiv.org/abs/2402.03300). The policy writes
    several answers to each prompt. An answer's advantage is its reward less the mean of the group, divided by the
    group's deviation. The ratio of probabilities is clipped token by token, and the KL divergence is a part of the
    loss."""

    kind: Literal["grpo"] = Field(description="The objective.")
    beta: float = Field(
        default=0.0,
        ge=0.0,
        description="The weight of the KL divergence from the untouched base, 0.04 in the paper; 0 needs no reference. "
        "`init_kl_coef` in TRL's former PPOTrainer.",
    )
    loss_type: Literal["dapo", "grpo", "dr_grpo"] = Field(
        default="dapo",
        description="What the loss is a mean over: `dapo`, the tokens of a step (https://arxiv.org/abs/2503.14476); "
        "`grpo`, the tokens of each answer and then the answers, so that a token of a long answer counts less; "
        "`dr_grpo`, all tokens divided by `max_new_tokens` (https://arxiv.org/abs/2503.20783).",
    )
    scale_rewards: Literal["group", "none"] = Field(
        default="group",
        description="Whether advantages are divided by the deviation of their group. `none` is recommended with "
        "`dr_grpo`.",
    )


class Grpo(PolicyObjective):
    """Learns from rewards of answers that it writes to prompts."""

    kind = "grpo"
    params = GrpoParams
    has_token_ratios = True

    def title(self, params: GrpoParams) -> str:
        """The objective with its loss."""
        return f"GRPO ({params.loss_type})"

    def mean_over(self, params: GrpoParams) -> Literal["rows", "tokens"]:
        """Tokens of the step for `dapo`, otherwise prompts."""
        return "tokens" if params.loss_type == "dapo" else "rows"

    def advantages(self, params: GrpoParams, rewards: Tensor, kl: Tensor | None) -> Tensor:
        """Rewards relative to their group."""
        relative = rewards - rewards.mean(dim=1, keepdim=True)
        if params.scale_rewards == "none":
            return relative
        return relative / (rewards.std(dim=1, keepdim=True) + _SMALL)

    def loss(self, params: GrpoParams, scores: Scores) -> Loss:
        """PPO's clipped ratio of single tokens, and the KL divergence (equations 3 and 4), as in TRL 1.16's
        GRPOTrainer."""
        assert scores.of_tokens is not None
        assert scores.advantages is not None
        assert scores.entropies is not None
        assert scores.num_tokens is not None
        tokens, advantages = scores.of_tokens, scores.advantages[:, :, None]
        mask = tokens.mask
        old = tokens.logps.detach() if tokens.old_logps is None else tokens.old_logps
        gain, is_clipped = clipped_gain(params, (tokens.logps - old).exp(), advantages)
        per_token = -gain if scores.sampling_weights is None else -gain * scores.sampling_weights
        metrics = {
            "entropy": (scores.entropies.detach(), scores.num_tokens),
            "clip_ratio/region_mean": ((is_clipped * mask).sum(dim=(1, 2)), mask.sum(dim=(1, 2))),
        }
        if tokens.reference_logps is not None:
            apart = tokens.reference_logps - tokens.logps
            kl = apart.exp() - apart - 1.0
            per_token = per_token + params.beta * kl
            metrics["kl"] = ((kl.detach() * mask).sum(dim=(1, 2)), mask.sum(dim=(1, 2)))
        of_answers = (per_token * mask).sum(dim=2)
        if params.loss_type == "dapo":
            return Loss(of_answers.sum(dim=1), metrics)
        length = params.max_new_tokens if params.loss_type == "dr_grpo" else mask.sum(dim=2).clamp(min=1)
        return Loss((of_answers / length).mean(dim=1), metrics)


OBJECTIVE = Grpo()
