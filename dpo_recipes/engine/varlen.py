"""Attention in a packed row on CUDA: one variable-length kernel for all spans, with the differences of torch's
versions.

Checked with torch 2.11 (`varlen_attn` has no `enable_gqa`) and 2.13.

Shapes: T tokens in the packed row, Tk copied keys, Hq and Hk heads of queries and of keys, D the width of a head.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch

from dpo_recipes.engine.packing import Packing, all_spans


def has_kernel(query: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether torch's variable-length flash attention supports these: CUDA since Ampere, 16 bits, heads up to 256."""
    return (
        query.device.type == "cuda"
        and query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] == value.shape[-1] <= 256
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packing: Packing,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """Query [1, Hq, T, D], key and value [1, Hk, T, D] → [1, T, Hq, D], without compilation for new lengths.

    If there are fewer queries than keys, flash attention 2 aligns a causal or windowed mask at the ends, as a tail
    after its prefix requires. The kernel reads the keys of adjacent tokens, so the prefix is copied before each tail
    but the first.
    """
    layout = varlen_layout(packing, query.device)
    row_query, row_key, row_value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # [T, heads, D]
    return call_kernel(
        row_query.contiguous(),
        row_key.index_select(0, layout.key_index),
        row_value.index_select(0, layout.key_index),
        layout,
        scale=scaling,
        window_size=(-1, 0) if window is None else (window - 1, 0),
    )[None]


@dataclass(frozen=True)
class VarlenLayout:
    """The layout of the spans for variable-length kernels."""

    query_starts: torch.Tensor
    """[spans + 1], 32 bits: the start of each span's queries."""
    key_starts: torch.Tensor
    """[spans + 1], 32 bits: the start of each span's keys among the copied keys."""
    key_index: torch.Tensor
    """[Tk]: the position of each copied key in the packed row."""
    max_queries: int
    max_keys: int


def varlen_layout(packing: Packing, device: torch.device) -> VarlenLayout:
    """The layout of a packing's spans, computed once and stored in the packing."""
    if "varlen" not in packing.memo:
        spans = all_spans(packing)
        queries, keys = [span.queries for span in spans], [span.num_keys for span in spans]
        pieces = [torch.arange(start, stop) for span in spans for start, stop in span.keys]
        packing.memo["varlen"] = VarlenLayout(
            _starts(queries, device), _starts(keys, device), torch.cat(pieces).to(device), max(queries), max(keys)
        )
    return packing.memo["varlen"]


def _starts(lengths: list[int], device: torch.device) -> torch.Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)


def call_kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: VarlenLayout,
    *,
    scale: float | None,
    window_size: tuple[int, int],
) -> torch.Tensor:
    """torch's kernel for query [T, Hq, D], key and value [Tk, Hk, D] → [T, Hq, D], called as its version requires."""
    from torch.nn.attention.varlen import varlen_attn

    kernel: Any = varlen_attn
    more: dict[str, Any] = {}
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        if _takes_fewer_key_heads(kernel):
            more["enable_gqa"] = True
        elif not _shares_key_heads(kernel, query.device, query.dtype):
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    lengths = (layout.query_starts, layout.key_starts, layout.max_queries, layout.max_keys)
    return kernel(query, key, value, *lengths, scale=scale, window_size=window_size, **more)


@functools.cache
def _takes_fewer_key_heads(kernel: Any) -> bool:
    """Whether this version of torch documents fewer heads of keys than of queries, as 2.13 does."""
    return "enable_gqa" in kernel.__code__.co_varnames


@functools.cache
def _shares_key_heads(kernel: Any, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernel supports fewer heads of keys than of queries although this is not documented.

    torch 2.11 passes the tensors unchanged to the same flash attention as 2.13. Repeated heads would cost memory and
    time, but undocumented behavior could be wrong: a trial of both passes decides once.
    """
    draw = torch.Generator().manual_seed(0)
    query, key, value, gradient = (
        torch.randn(9, heads, 64, generator=draw).to(device, dtype) for heads in (4, 2, 2, 4)
    )
    starts = torch.tensor([0, 4, 9], dtype=torch.int32, device=device)

    def passes(repeats: int) -> list[torch.Tensor]:
        inputs = [tensor.detach().requires_grad_() for tensor in (query, key, value)]
        repeated = [inputs[0], *(tensor.repeat_interleave(repeats, 1) for tensor in inputs[1:])]
        output = kernel(*repeated, starts, starts, 5, 5, scale=None, window_size=(-1, 0))
        return [output.detach(), *torch.autograd.grad(output, inputs, gradient)]

    # The hooks keep the tensors that are saved here out of the count of an enclosing activation checkpoint.
    own_hooks = torch.autograd.graph.saved_tensors_hooks(lambda saved: saved, lambda saved: saved)
    with torch.enable_grad(), torch.autocast(device.type, enabled=False), own_hooks:
        expected = passes(2)
        try:
            found = passes(1)
        except (RuntimeError, ValueError):
            return False
    return all((mine - theirs).norm() <= 0.02 * theirs.norm() for mine, theirs in zip(found, expected, strict=True))
