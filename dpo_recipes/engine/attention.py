"""Attention in a packed row: each span of queries attends to its own keys and to no other group's.

Registered with transformers' AttentionInterface under the names of the kinds of attention that it replaces; calls
without a packing are passed on to the original functions. The packing is passed as a keyword argument through the
model's layers, so that a layer that is recomputed in the backward pass (activation checkpointing) sees the packing of
its own batch.

Shapes: T tokens in the packed row, Hq and Hk heads of queries and of keys, D the width of a head.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from dpo_recipes.engine import varlen
from dpo_recipes.engine.packing import Packing, all_spans

KEYWORD = "shared_prefix_packing"
"""The name of the argument that passes the packing through the layers."""
STANDS_IN_FOR = ("sdpa", "flash_attention_2")
"""Kinds of attention whose calls with a packing are replaced. `eager` has no registered function to replace."""
_CHANGES_SCORES = ("softcap", "s_aux", "position_bias")
"""Arguments that change scores in a way that neither SDPA nor torch's variable-length attention supports."""


class UnsupportedAttentionError(Exception):
    """Raised if a layer requests something that attention in a packed row does not support."""


def register() -> None:
    """Replace each kind of attention, once for the process."""
    known = AttentionInterface()
    for name in STANDS_IN_FOR:
        plain = known[name]
        if not hasattr(plain, "stands_in_for"):
            AttentionInterface.register(name, _standing_in_for(plain))


def _standing_in_for(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def attend(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any) -> Any:
        packing = kwargs.pop(KEYWORD, None)
        if packing is None:
            return plain(module, query, key, value, attention_mask, **kwargs)
        # transformers 5.23's functions read it from the module too; those of encoders have it set to False.
        if kwargs.get("is_causal") is None:
            kwargs["is_causal"] = getattr(module, "is_causal", True)
        return attend_packed(query, key, value, packing, **kwargs), None

    attend.stands_in_for = plain  # pyright: ignore[reportAttributeAccessIssue]
    return attend


def attend_packed(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packing: Packing,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """Attention of the packed row: query [1, Hq, T, D], key and value [1, Hk, T, D] → [1, T, Hq, D].

    `sliding_window` is the number of positions that a token sees, including itself, as in transformers 5.23's masks.
    Raises `UnsupportedAttentionError` for changed scores and attention that is not causal.
    """
    asked = [name for name in _CHANGES_SCORES if kwargs.get(name) is not None]
    if asked or kwargs.get("is_causal") is False:
        raise UnsupportedAttentionError(f"a layer requests {', '.join(asked) or 'attention that is not causal'}")
    if packing.num_tokens != query.shape[2] or query.shape[0] != 1 or key.shape[2] != query.shape[2]:
        raise UnsupportedAttentionError("a layer attends to other keys than those of the packed row")
    if packing.windows_seen is not None:
        packing.windows_seen.append(sliding_window)
    query, key, value = _in_one_precision(query, key, value)
    if varlen.has_kernel(query, value) and not dropout:
        return varlen.attend(query, key, value, packing, scaling, sliding_window)
    return by_span(query, key, value, packing, scaling, sliding_window, dropout)


def _in_one_precision(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Queries, keys and values in the type that autocast uses for SDPA, or in the type of the values without autocast.

    With 32-bit weights under autocast, rotary embeddings return queries and keys in 32 bits, while values have 16 bits.
    No kernel for variable lengths supports this; transformers' flash attention casts them too.
    """
    kind, dtype = tensors[-1].device.type, tensors[-1].dtype
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    return [tensor.to(dtype) for tensor in tensors]


def by_span(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packing: Packing,
    scaling: float | None,
    window: int | None,
    dropout: float,
) -> torch.Tensor:
    """SDPA for each span, which on a CPU costs a third of SDPA with a dense mask over the packed row.

    The row is split, not sliced: the backward pass of a split concatenates the gradients once, whereas that of each
    slice would fill a whole row with zeros.
    """
    spans, masks = all_spans(packing), _masks(packing, window, query.device)
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    lengths = [span.queries for span in spans]
    queries, keys, values = (tensor.split(lengths, 2) for tensor in (query, key, value))
    outputs: list[torch.Tensor] = []
    first_row = 0  # the span that holds the prefix of the tails after it
    for index, (span, mask) in enumerate(zip(spans, masks, strict=True)):
        span_key, span_value = keys[index], values[index]
        prefix = span.num_keys - span.queries
        if prefix:
            span_key = torch.cat([keys[first_row][:, :, :prefix], span_key], 2)
            span_value = torch.cat([values[first_row][:, :, :prefix], span_value], 2)
        else:
            first_row = index
        outputs.append(
            scaled_dot_product_attention(
                queries[index],
                span_key,
                span_value,
                attn_mask=mask,
                dropout_p=dropout,
                is_causal=mask is None and span.queries > 1 and not prefix,
                scale=scaling,
            )
        )
    return torch.cat(outputs, 2).transpose(1, 2)


def _masks(packing: Packing, window: int | None, device: torch.device) -> list[torch.Tensor | None]:
    """For each span, a mask [queries, keys] that is True where a query sees a key; None if it is the causal mask."""
    name = ("masks", window)
    if name not in packing.memo:
        packing.memo[name] = [span_mask(span.queries, span.num_keys, window, device) for span in all_spans(packing)]
    return packing.memo[name]


def span_mask(queries: int, keys: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """The mask of causal attention within a window, with queries and keys aligned at their ends.

    The positions of the keys are 0 to `keys` - 1; the last query has the position of the last key.
    """
    fits = window is None or keys <= window
    if fits and queries in (keys, 1):
        return None
    visible = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    return visible if fits or window is None else visible.triu(keys - queries - window + 1)
