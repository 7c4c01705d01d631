"""Multiplies the loss of each pair by its weight where TRL's DPOTrainer takes the mean over a micro-batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

Forward = Callable[..., Any]


class WeightedMeans(TorchFunctionMode):
    """While it is entered, the means that TRL 1.16 takes over the losses of pairs are means of weighted losses.

    `DPOTrainer._compute_loss` computes the loss of each pair, multiplies it by the weights of WPO if `use_weighting` is
    set, and calls `mean()` without arguments once for each loss type; only this call separates the pairs from the loss
    of the micro-batch. Before it, the loss `sft` takes the mean over the tokens of all chosen answers, and there each
    token has the weight of its pair. The means of metrics come later and are not changed. A weight of 1 changes no bit.

    tests/integration/test_upstream.py fails when these calls move.
    """

    def __init__(self, losses: Sequence[str], weights: torch.Tensor, completion_mask: torch.Tensor) -> None:
        """`weights` are [B]; `completion_mask` is [2·B, L], the chosen answers first."""
        super().__init__()
        self._weights_of_means = _weights_of_means(losses, weights, completion_mask)
        self._is_complete = False

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function of torch; `mean()` of some pairs' losses is that of their weighted losses."""
        if function is torch.Tensor.mean and len(args) == 1 and not kwargs and not self._is_complete:
            args = (self._weigh(args[0]),)
        return function(*args, **(kwargs or {}))

    def _weigh(self, values: torch.Tensor) -> torch.Tensor:
        weights = next(self._weights_of_means, None)
        if weights is None:  # the means of metrics
            self._is_complete = True
            return values
        assert weights.shape == values.shape, "TRL takes a mean over other values than those of DPOTrainer 1.16"
        return values * weights.to(values.dtype)

    def check_complete(self) -> None:
        """Assert that all means were taken."""
        assert next(self._weights_of_means, None) is None, "TRL's DPOTrainer no longer takes one mean for each loss"


def _weights_of_means(
    losses: Sequence[str], weights: torch.Tensor, completion_mask: torch.Tensor
) -> Iterator[torch.Tensor]:
    """The weights of the values in each mean, in the order in which TRL 1.16 takes them."""
    for loss in losses:
        if loss == "sft":
            num_tokens = completion_mask[: len(weights), 1:].sum(dim=1)
            yield weights.repeat_interleave(num_tokens)
            yield torch.ones_like(weights)  # the mean over equal values, one for each pair
        else:
            yield weights


def weigh_losses(
    compute_loss: Callable[[Forward], Any], model: Forward, losses: Sequence[str], weights: torch.Tensor, mask: Any
) -> Any:
    """Call `compute_loss`, which calls the model once, with the means after the forward pass weighted."""
    means = WeightedMeans(losses, weights, mask)
    with ExitStack() as after_forward:

        def forward(**inputs: Any) -> Any:
            outputs = model(**inputs)
            after_forward.enter_context(means)
            return outputs

        loss = compute_loss(forward)
    means.check_complete()
    return loss
