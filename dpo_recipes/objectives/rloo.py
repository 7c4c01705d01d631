"""RLOO: REINFORCE with the mean reward of the other answers to a prompt as baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from dpo_recipes.objectives.policy import PolicyObjective, PolicyParams, clipped_gain
from dpo_recipes.objectives.scores import Loss, Scores

if TYPE_CHECKING:
    from torch import Tensor


class RlooParams(PolicyParams):
    """REINFORCE leave-one-out (Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740). The policy writes several
    answers to each prompt. An answer's advantage is its reward less the mean reward of the others; the KL divergence
    from the base is a part of the reward. The loss is that of PPO with one action, the whole answer."""

    kind: Literal["rloo"] = Field(description="The objective.")
    normalize_advantages: bool = Field(
        default=False, description="Bring the advantages of each step to a mean of 0 and a deviation of 1."
    )


class Rloo(PolicyObjective):
    """Learns from rewards of answers that it writes to prompts."""

    kind = "rloo"
    params = RlooParams

    def normalizes_step(self, params: RlooParams) -> bool:
        """If the recipe says so."""
        return params.normalize_advantages

    def puts_kl_into_reward(self, params: RlooParams) -> bool:
        """As in the paper, unless it has no weight."""
        return params.beta > 0.0

    def advantages(self, params: RlooParams, rewards: Tensor, kl: Tensor | None) -> Tensor:
        """Each reward less the mean of the others (equation 8)."""
        if kl is not None:
            rewards = rewards - params.beta * kl
        others = (rewards.sum(dim=1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
        return rewards - others

    def loss(self, params: RlooParams, scores: Scores) -> Loss:
        """PPO's clipped ratio of whole answers, as in TRL 1.16's RLOOTrainer."""
        assert scores.logps is not None
        assert scores.old_logps is not None
        assert scores.advantages is not None
        assert scores.entropies is not None
        assert scores.num_tokens is not None
        gain, is_clipped = clipped_gain(params, (scores.logps - scores.old_logps).exp(), scores.advantages)
        if scores.sampling_weights is not None:
            gain = gain * scores.sampling_weights.squeeze(2)
        metrics = {
            "entropy": (scores.entropies.detach(), scores.num_tokens),
            "clip_ratio/region_mean": is_clipped.float().mean(dim=1),
        }
        return Loss(-gain.mean(dim=1), metrics)


OBJECTIVE = Rloo()
