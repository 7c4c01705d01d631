"""One training step or one pass of the reference, simulated on a model without weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dpo_recipes.engine.attention import register
from dpo_recipes.engine.backbone import forward_packed
from dpo_recipes.engine.head import tile_tokens
from dpo_recipes.engine.packing import GroupLengths
from dpo_recipes.engine.prefix_sharing import is_worth_packing
from dpo_recipes.engine.prefix_trial import unsupported_reason
from dpo_recipes.engine.versions import enable_checkpointing
from dpo_recipes.fit.simulation.meta_model import MetaModel, layer_period, materialize, quiet
from dpo_recipes.fit.simulation.trace import Rates, Trace, Tracer
from dpo_recipes.launch.batch import batch_of
from dpo_recipes.model.heads import is_encoder
from dpo_recipes.objectives import objective_of


@dataclass(frozen=True)
class Batch:
    """The lengths of a micro-batch, in tokens: what all of memory and time depends on."""

    lengths: GroupLengths
    scored: int
    """Positions that meet the LM head: the tokens of all answers."""

    @classmethod
    def of(cls, prompt: Sequence[int], *answers: Sequence[int]) -> Batch:
        """A micro-batch of prompts with answers that differ from their first token on."""
        rows = [tuple(int(p + a) for p, a in zip(prompt, each, strict=True)) for each in answers]
        # A single answer is a prefix of itself.
        prefix = tuple(int(tokens) for tokens in prompt) if len(rows) > 1 else rows[0]
        return cls(GroupLengths(prefix, tuple(rows), max(map(max, rows))), sum(int(sum(each)) for each in answers))

    @property
    def num_rows(self) -> int:
        """Rows of the padded batch, one for each answer."""
        return self.lengths.answers_per_group * len(self.lengths.prefix)


def simulate(meta_model: MetaModel, batch: Batch, rates: Rates, *, trains: bool = True) -> Trace:
    """Memory and work of one micro-batch: with its backward pass, or without as in evaluation.

    Deep models are traced with a few layers and extrapolated, which is exact as each further layer does the same.
    """
    return extrapolated(meta_model, lambda layers: _trace(meta_model, layers, batch, rates, trains=trains))


def extrapolated(meta_model: MetaModel, trace: Callable[[int | None], Trace]) -> Trace:
    """The trace of a whole model, from traces of models with so many layers."""
    if not meta_model.has_uniform_layers:
        return trace(None)
    period, num_layers = layer_period(meta_model.config), meta_model.num_layers
    small = num_layers % period + period * (2 if period == 1 else 1)
    if num_layers <= small + period:
        return trace(None)
    first, second = trace(small), trace(small + period)
    return first.extrapolate(second, (num_layers - small - period) / period)


def _trace(meta_model: MetaModel, num_layers: int | None, batch: Batch, rates: Rates, *, trains: bool) -> Trace:
    training = meta_model.recipe.training
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with quiet():
        model = meta_model.build(num_layers)
        resident = materialize(model, mode)
        model.train(trains)
        if trains and training.gradient_checkpointing:
            base = model.get_base_model() if hasattr(model, "get_base_model") else model
            enable_checkpointing(base)
            if base is not model:
                model.enable_input_require_grads()
        with mode, _head_of(meta_model.device):
            if trains and batch_of(meta_model.recipe).accumulates:
                resident += _earlier_gradients(model)
            ids = torch.zeros((batch.num_rows, batch.lengths.width), dtype=torch.long)
            tracer = Tracer([*resident, ids], rates)
            if trains:
                tracer.watch_gradients(model.parameters())
            with tracer, torch.set_grad_enabled(trains):
                log_probs = _forward(meta_model, model, ids, batch, tracer)
                if trains:
                    log_probs.sum().backward()
    return tracer.result()


def _forward(meta_model: MetaModel, model: Any, ids: torch.Tensor, batch: Batch, tracer: Tracer) -> torch.Tensor:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    autocast = meta_model.autocast_dtype
    with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        if is_encoder(meta_model.config):  # its head has several layers for one position of a sequence
            # An architecture without SDPA, such as DeBERTa, makes its own mask from that of the tokens.
            mask = attention_mask(meta_model, *ids.shape) if base._supports_sdpa else torch.ones_like(ids)
            rewards = base(input_ids=ids, attention_mask=mask).logits
            tracer.mark_kept()
            return rewards
        if packs(meta_model, base, batch):
            register()
            most = meta_model.recipe.training.max_tokens_per_pass
            hidden = forward_packed(base.base_model, ids, batch.lengths, most).last_hidden_state
        else:
            mask = attention_mask(meta_model, batch.num_rows, batch.lengths.width)
            hidden = base.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        tracer.mark_kept()
        objective = objective_of(meta_model.recipe)
        if objective.head == "score":  # every position meets it, and one of a sequence counts
            return base.score(hidden)
        labelled = hidden.reshape(-1, hidden.shape[-1]).index_select(0, torch.zeros(batch.scored, dtype=torch.long))
        return _score(base, labelled, objective.head_outputs(meta_model.recipe.objective))


def packs(meta_model: MetaModel, base: Any, batch: Batch) -> bool:
    """Whether a batch is computed with each distinct token once, as `engine.prefix_sharing` decides it."""
    if meta_model.recipe.training.prefix_sharing == "off" or unsupported_reason(base) is not None:
        return False
    return is_worth_packing(sum(batch.lengths.distinct), batch.lengths.num_padded)


def _score(base: Any, hidden: torch.Tensor, outputs: tuple[str, ...]) -> torch.Tensor:
    """Log-probabilities by TRL's own fused LM head, which works in tiles."""
    from trl.trainer import utils as trl_utils

    head = base.get_output_embeddings()
    targets = torch.zeros(hidden.shape[0], dtype=torch.long)
    chunk = trl_utils._CHUNKED_LOGPROB_CHUNK_SIZE
    score = trl_utils._ChunkedLogProbFunction.apply  # pyright: ignore[reportPrivateImportUsage]
    return score(hidden, head.weight, head.bias, targets, 1.0, chunk, None, 1.0, outputs)[0]


@contextlib.contextmanager
def _head_of(device: str) -> Iterator[None]:
    """The head as it works on a device: its tiles, and on CUDA the Triton kernels that cannot be traced.

    These work on a tile in place and take no memory. tests/integration/test_upstream.py fails when a name moves.
    """
    from trl.kernels import chunked_logprob

    stand_ins: dict[str, Any] = {"TOKEN_CHUNK_SIZE": tile_tokens(device)}
    if device == "cuda":
        stand_ins |= {
            "_forward_tile": lambda *args, **kwargs: None,
            "_backward_tile": lambda *args, **kwargs: None,
            # cuBLAS adds 16-bit products to a float32 sum as they come.
            "_addmm_fp32": lambda acc, a, b: acc.add_(a @ b),
        }
    own = {name: getattr(chunked_logprob, name) for name in stand_ins}
    try:
        for name, stand_in in stand_ins.items():
            setattr(chunked_logprob, name, stand_in)
        yield
    finally:
        for name, function in own.items():
            setattr(chunked_logprob, name, function)


def _earlier_gradients(model: Any) -> list[torch.Tensor]:
    """Gradients of the micro-batches before: the peak comes with the last one of a step."""
    gradients = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter)
            gradients.append(parameter.grad)
    return gradients


def attention_mask(meta_model: MetaModel, num_rows: int, width: int) -> torch.Tensor:
    """The mask of padded rows as transformers makes it: true and false for SDPA, numbers to be added for eager."""
    is_eager = meta_model.config._attn_implementation == "eager"
    dtype = (meta_model.autocast_dtype or torch.float32) if is_eager else torch.bool
    return torch.ones((num_rows, 1, width, width), dtype=dtype)
