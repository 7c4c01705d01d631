"""What the objectives have in common whose policy writes answers that are then rewarded: RLOO and GRPO.

A row is a prompt. In each step the policy writes `num_generations` answers to it, so a row with its answers is a whole
group, which no division into micro-batches can split.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from dpo_recipes.errors import Finding
from dpo_recipes.objectives.base import BatchShape, Locate, Objective, ObjectiveParams, ReferenceKind
from dpo_recipes.objectives.generation import SAMPLER_DIFFERENCE, SAMPLER_RATIO, Generation, check_generation
from dpo_recipes.objectives.metric import LOSS, Metric
from dpo_recipes.objectives.policy_checks import check_data, check_values
from dpo_recipes.objectives.rates import LearningRates, RateRange
from dpo_recipes.reward_settings import Reward, RewardSettings, source_names

if TYPE_CHECKING:
    from torch import Tensor

    from dpo_recipes.recipe.schema import Recipe

GENERATES = ("auto", "ddp")
"""The strategies with which a policy was seen to generate in several processes; `auto` chooses `ddp`."""


class PolicyParams(ObjectiveParams):
    """The parameters of all these objectives."""

    rewards: list[Reward] = Field(
        min_length=1,
        description="The sources of rewards, at least one, for example [{model: runs/my-reward-model/...}]. Each gives "
        "every answer a number; an answer's reward is their sum, each multiplied by its `weight`.",
    )
    num_generations: int = Field(
        default=4, ge=2, description="The answers to each prompt, which are compared with one another."
    )
    max_new_tokens: int = Field(
        default=256,
        ge=1,
        description="The maximum length of an answer in tokens. A prompt has `data.max_length` less this number.",
    )
    temperature: float = Field(
        default=1.0,
        gt=0.0,
        description="The sampling temperature. Log-probabilities are computed at this temperature, too.",
    )
    top_p: float = Field(
        default=1.0,
        gt=0.0,
        le=1.0,
        description="Sample only from the most likely tokens that have this probability together. Log-probabilities "
        "are those of all tokens, so that the KL estimate is biased below 1.",
    )
    beta: float = Field(
        default=0.05,
        ge=0.0,
        description="The weight of the KL divergence from the untouched base; 0 needs no reference. `init_kl_coef` in "
        "TRL's former PPOTrainer.",
    )
    num_iterations: int = Field(
        default=1,
        ge=1,
        description="The optimizer steps on the same answers. From the second one on, the ratio of the probabilities "
        "now and then is clipped. `ppo_epochs` in TRL's former PPOTrainer.",
    )
    epsilon: float = Field(
        default=0.2,
        gt=0.0,
        lt=1.0,
        description="The ratio of probabilities is clipped to 1 - `epsilon`. `cliprange` in TRL's former PPOTrainer.",
    )
    epsilon_high: float | None = Field(
        default=None, gt=0.0, description="The ratio is clipped to 1 + `epsilon_high`. Absent: 1 + `epsilon`."
    )
    reward_clip_range: list[float] | None = Field(
        default=None,
        min_length=2,
        max_length=2,
        description="The lowest and the highest reward, for example [-5, 5]. The sum of all sources is clipped to it.",
    )
    missing_eos_penalty: float = Field(
        default=0.0,
        ge=0.0,
        description="A number that is subtracted from the reward of an answer that is cut off at `max_new_tokens`, "
        "after clipping.",
    )
    generation_batch_size: int = Field(
        default=32, ge=1, description="The answers that are written at once. More are faster and need more memory."
    )
    generation: Generation = Field(
        default_factory=Generation,
        description="What generates the answers: transformers, or vLLM on CUDA, in the run's processes or on a server.",
    )


class PolicyObjective(Objective):
    """An objective whose policy writes answers that are rewarded."""

    rows = "prompt"
    row_numbers = ()
    starting_params: ClassVar[Mapping[str, Any]] = {"rewards": [{"rule": "length", "min": 10, "max": 100}]}
    best_metric = "reward"
    trainer = "dpo_recipes.engine.policy_trainer:PolicyTrainer"
    metrics = (
        LOSS,
        Metric(
            "reward",
            "Reward",
            is_signed=True,
            higher_is_better=True,
            is_shown_live=True,
            description="The mean reward of sampled answers: the sum of all sources, without clipping, penalties and "
            "KL.",
        ),
        Metric("reward_std", "Deviation of rewards in a group"),
        Metric(
            "kl",
            "KL to the base per token",
            4,
            is_signed=True,
            is_shown_live=True,
            base_value=0.0,
            short_label="KL",
            description="How far the model has moved from its base, in nats per token of its own answers.",
        ),
        Metric("entropy", "Entropy per token", is_shown_live=True, short_label="entropy"),
        Metric("completions/mean_length", "Tokens of an answer", 1, is_shown_live=True, short_label="tokens"),
        Metric("completions/clipped_ratio", "Answers cut off", 1, is_share=True),
        Metric("frac_reward_zero_std", "Groups with equal rewards", 1, is_share=True),
        Metric("clip_ratio/region_mean", "Clipped ratios", 1, is_share=True),
    )
    """The keys are those of TRL's RLOOTrainer and GRPOTrainer."""
    has_token_ratios: ClassVar[bool] = False
    """Whether each token of an answer has its own ratio of probabilities, and not only the whole answer."""
    metrics_note = (
        "Held-out metrics are measured on sampled answers, as many to each prompt as in training. The held-out loss is "
        "minus the reward, plus the KL penalty; the training loss is the surrogate that the step differentiates, whose "
        "value is near 0."
    )

    def rewards(self, params: PolicyParams) -> Sequence[RewardSettings]:
        """Those of the recipe."""
        return params.rewards

    def further_metrics(self, params: PolicyParams) -> Sequence[str]:
        """The mean reward of each source, if there are several, and how far vLLM is from the policy."""
        names = source_names(params.rewards)
        of_sources = [source_metric(name) for name in names] if len(names) > 1 else []
        return [*of_sources, *([SAMPLER_DIFFERENCE, SAMPLER_RATIO] if params.generation.is_corrected else [])]

    def uses_tokens(self, params: PolicyParams) -> bool:
        """For ratios of tokens, and to compare vLLM's log-probabilities with the policy's."""
        return self.has_token_ratios or params.generation.is_corrected

    def new_tokens(self, params: PolicyParams) -> int:
        """The most tokens of an answer."""
        return params.max_new_tokens

    def steps_on_answers(self, params: PolicyParams) -> int:
        """Those of the recipe."""
        return params.num_iterations

    def temperature(self, params: PolicyParams) -> float:
        """That of sampling."""
        return params.temperature

    def reference(self, params: PolicyParams) -> ReferenceKind:
        """The base computes the new answers in each step, unless its KL has no weight."""
        return "each_step" if params.beta > 0.0 else "none"

    def batch_shape(self, params: PolicyParams) -> BatchShape:
        """A prompt with its group of answers."""
        return BatchShape(params.num_generations)

    def head_outputs(self, params: PolicyParams) -> tuple[str, ...]:
        """Also the entropy."""
        return ("log_probs", "entropy")

    def learning_rates(self, params: PolicyParams) -> LearningRates | None:
        """Those of preference optimization and below."""
        return POLICY_RATES

    def clipped(self, params: PolicyParams, rewards: Tensor, is_cut: Tensor) -> Tensor:
        """The rewards as the advantages use them: clipped, and less the penalty of answers that are cut off."""
        if params.reward_clip_range is not None:
            rewards = rewards.clamp(*params.reward_clip_range)
        return rewards - params.missing_eos_penalty * is_cut

    def advantages(self, params: Any, rewards: Tensor, kl: Tensor | None) -> Tensor:
        """[B, K]: how much better each answer is than the others of its group. `kl`, [B, K], is the estimate for each
        answer in nats, if the KL divergence is a part of the reward."""
        raise NotImplementedError

    def normalizes_step(self, params: Any) -> bool:
        """Whether the advantages of a whole step are brought to a mean of 0 and a deviation of 1."""
        return False

    def puts_kl_into_reward(self, params: Any) -> bool:
        """Whether the KL divergence is a part of the reward, and not of the loss."""
        return False

    def check(self, recipe: Recipe, locate: Locate) -> Iterator[Finding]:
        """R316, R327, R389, R395, R391 and R400."""
        params = recipe.objective
        assert isinstance(params, PolicyParams), "the objective names these parameters"
        yield from check_values(params, locate)
        yield from check_data(recipe, params, locate)
        ratios = self.has_token_ratios
        yield from check_generation(recipe, params.generation, locate, top_p=params.top_p, has_token_ratios=ratios)
        strategy = recipe.launch.strategy
        if strategy not in GENERATES:
            what = f"`{self.kind}` cannot generate answers with `strategy: {strategy}`"
            why = "each process generates with all weights, and no other strategy than `ddp` has been shown to do that"
            fix = "write `strategy: ddp`"
            yield Finding("R391", what, locate(("launch", "strategy")), why, fix)


def clipped_gain(params: PolicyParams, ratio: Tensor, advantages: Tensor) -> tuple[Tensor, Tensor]:
    """PPO's clipped gain of each answer or token (Schulman et al. 2017, equation 7), and whether its ratio is
    clipped."""
    low, high = 1.0 - params.epsilon, 1.0 + (params.epsilon_high or params.epsilon)
    gain = (ratio * advantages).minimum(ratio.clamp(low, high) * advantages)
    return gain, ((ratio < low) & (advantages < 0)) | ((ratio > high) & (advantages > 0))


def source_metric(name: str) -> str:
    """The key of the mean reward of a source."""
    return f"rewards/{name}/mean"


POLICY_RATES = LearningRates(
    # 1e-6 (TRL's default for RLOO and GRPO, DeepSeekMath), 3e-7 and 1e-6 (Tulu 3), 3e-6 (RLOO's paper, Pythia 1B).
    full=RateRange(1e-7, 1e-5, 1e-6),
    # Some ten times as much (LoRA Without Regret, https://thinkingmachines.ai/blog/lora/, which trains GRPO too).
    lora=RateRange(1e-6, 2e-4, 2e-5),
)
"""The learning rates that policy gradients on language models were seen to work with."""
