"""What the engine computes for a micro-batch, and the loss that an objective makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class TokenScores:
    """Log-probabilities of the single tokens of a micro-batch. All tensors are [B, K, T] and float32; only positions
    with a `mask` of 1 are trained tokens of an answer."""

    logps: Tensor
    """Of the policy, with gradients."""
    mask: Tensor
    old_logps: Tensor | None = None
    """When the policy wrote the answers."""
    reference_logps: Tensor | None = None
    """None without a reference."""


@dataclass
class Scores:
    """What the engine computed for a micro-batch of B rows with K answers each. All tensors are float32.

    Log-probabilities are sums over the trained tokens of an answer, in nats.
    """

    logps: Tensor | None = None
    """[B, K] of the policy, with gradients; None for a model that returns scores."""
    num_tokens: Tensor | None = None
    """[B, K]: the trained tokens of each answer."""
    entropies: Tensor | None = None
    """[B, K]: sums of the policy's entropy over the trained tokens, in nats; None if the head does not return them."""
    num_correct: Tensor | None = None
    """[B, K]: the trained tokens that the policy ranks first; None if the head does not return them."""
    reference_logps: Tensor | None = None
    """[B, K]; None without a reference."""
    prompt_logps: Tensor | None = None
    """[B]: the policy's sums over the prompt's tokens, if `BatchShape.scores_prompt` is set."""
    num_prompt_tokens: Tensor | None = None
    """[B]: the tokens that `prompt_logps` sums over: all but the first one, which nothing predicts."""
    values: Tensor | None = None
    """[B, K]: the numbers of a model that returns scores, with gradients."""
    labels: Tensor | None = None
    """[B] of bool for labelled rows."""
    margins: Tensor | None = None
    """[B]: the margin column of reward modelling; None if the data have none."""
    advantages: Tensor | None = None
    """[B, K]: how much better each answer is than the others to its prompt, for answers that the policy has written."""
    old_logps: Tensor | None = None
    """[B, K]: the log-probabilities when the policy wrote the answers."""
    sampling_weights: Tensor | None = None
    """[B, K, T] or [B, K, 1]: the factors that correct the probabilities of another sampler; None if the policy has
    sampled itself."""
    of_tokens: TokenScores | None = None
    """The values of single tokens, if `Objective.uses_tokens` is set."""
    weights: Tensor | None = None
    """[B]: the weight of each row, which `weighted` applies; None if all rows count alike."""

    def weighted(self, per_row: Tensor) -> Tensor:
        """The losses of the rows, multiplied by their weights."""
        return per_row if self.weights is None else per_row * self.weights


@dataclass
class Loss:
    """The loss of a micro-batch and its metrics."""

    per_row: Tensor
    """[B]; the engine takes the mean over the rows of an optimizer step, or with `Objective.loss_mean` `tokens` their
    sum divided by the number of trained tokens of the step."""
    metrics: Mapping[str, Tensor | tuple[Tensor, Tensor]] = field(default_factory=dict)
    """By `Metric.key`: values that the engine averages over rows, [B] or fewer if a row has no value. Two tensors are
    sums over tokens and the numbers of tokens, for a mean over tokens."""
