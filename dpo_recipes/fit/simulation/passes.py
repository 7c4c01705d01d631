"""One training step or one pass of the reference, simulated on a model without weights."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dpo_recipes.fit.simulation.skeleton import Skeleton, layer_period, materialize
from dpo_recipes.fit.simulation.trace import Rates, Trace, Tracer

_METRICS = ("log_probs", "entropy", "mean_logits", "is_top1")
"""What TRL's DPOTrainer asks of its LM head."""


@dataclass(frozen=True)
class PassShape:
    """What goes through the model at once: `rows` sequences padded to `length` tokens; `scored` positions meet the LM
    head."""

    rows: int
    length: int
    scored: int

    @property
    def positions(self) -> int:
        """Positions that the backbone computes."""
        return self.rows * self.length


def simulate(skeleton: Skeleton, shape: PassShape, rates: Rates, *, trains: bool = True) -> Trace:
    """Memory and work of one micro-batch: with its backward pass, or without as in evaluation.

    Deep models are traced with a few layers and extrapolated, which is exact as each further layer does the same.
    """
    period, num_layers = layer_period(skeleton.config), skeleton.num_layers
    small = num_layers % period + period * (2 if period == 1 else 1)
    if num_layers <= small + period:
        return _trace(skeleton, None, shape, rates, trains=trains)
    first = _trace(skeleton, small, shape, rates, trains=trains)
    second = _trace(skeleton, small + period, shape, rates, trains=trains)
    return first.extrapolate(second, (num_layers - small - period) / period)


def _trace(skeleton: Skeleton, num_layers: int | None, shape: PassShape, rates: Rates, *, trains: bool) -> Trace:
    training = skeleton.recipe.training
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with _quiet():
        model = skeleton.meta_model(num_layers)
        resident = materialize(model, mode)
        model.train(trains)
        if trains and training.gradient_checkpointing:
            base = model.get_base_model() if hasattr(model, "get_base_model") else model
            base.activation_checkpointing_enable()
            if base is not model:
                model.enable_input_require_grads()
        with mode:
            if trains and training.gradient_accumulation_steps > 1:
                resident += _earlier_gradients(model)
            ids = torch.zeros((shape.rows, shape.length), dtype=torch.long)
            mask = _mask(skeleton, shape)
            tracer = Tracer([*resident, ids, mask], rates)
            if trains:
                tracer.watch_gradients(model.parameters())
            with tracer, torch.set_grad_enabled(trains):
                _run(skeleton, model, ids, mask, shape, tracer, trains=trains)
    return tracer.result()


def _run(
    skeleton: Skeleton,
    model: Any,
    ids: torch.Tensor,
    mask: torch.Tensor,
    shape: PassShape,
    tracer: Tracer,
    *,
    trains: bool,
) -> None:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    autocast = skeleton.autocast_dtype
    with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        hidden = base.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        tracer.mark_kept()
        log_probs = _score(base, hidden.reshape(-1, hidden.shape[-1])[: shape.scored])
    if trains:
        del hidden
        log_probs.sum().backward()


def _score(base: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Log-probabilities by TRL's own fused LM head, which works in tiles."""
    from trl.trainer import utils

    head = base.get_output_embeddings()
    targets = torch.zeros(hidden.shape[0], dtype=torch.long)
    chunk = utils._CHUNKED_LOGPROB_CHUNK_SIZE
    return utils._ChunkedLogProbFunction.apply(
        hidden, head.weight, head.bias, targets, 1.0, chunk, None, 1.0, _METRICS
    )[0]


def _earlier_gradients(model: Any) -> list[torch.Tensor]:
    """Gradients of the micro-batches before: the peak comes with the last one of a step."""
    gradients = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter)
            gradients.append(parameter.grad)
    return gradients


def _mask(skeleton: Skeleton, shape: PassShape) -> torch.Tensor:
    """The mask of padded rows as transformers makes it: true and false for SDPA, numbers to be added for eager."""
    is_eager = skeleton.config._attn_implementation == "eager"
    dtype = (skeleton.autocast_dtype or torch.float32) if is_eager else torch.bool
    return torch.ones((shape.rows, 1, shape.length, shape.length), dtype=dtype)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A meta model has no weights to initialise, and libraries warn of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
