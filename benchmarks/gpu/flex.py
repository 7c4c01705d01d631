"""(e) FlexAttention with a block mask against the variable-length kernel, in packed rows of real lengths."""

from __future__ import annotations

from functools import partial
from typing import Any

import pairs as pair_source
from context import Context
from device import timed

HEADS = {"qwen2-0.5b": (14, 2, 64), "llama-3-8b": (32, 8, 128)}
"""Heads of queries, of keys, and their width."""
_REPEATS = 20


def run(context: Context, name: str) -> None:
    """Time forward and backward of one layer's attention, for each way to compute it."""
    import torch

    from dpo_recipes.engine import attention, varlen

    heads = (4, 2, 16) if context.is_tiny else HEADS[name]
    packing, padded = _packings(context)
    dtype = getattr(torch, context.device.dtype)
    inputs = _inputs(heads, packing.num_tokens, context.device.kind, dtype)
    ways: dict[str, Any] = {
        "SDPA span by span": partial(attention.by_span, packing=packing, scaling=None, window=None, dropout=0.0)
    }
    if varlen.has_kernel(inputs[0], inputs[2]):
        ways["variable-length kernel"] = partial(varlen.attend, packing=packing, scaling=None, window=None)
    kept = {"tokens": packing.num_tokens, "padded": list(padded)}
    expected = None
    for way, attend in ways.items():
        found = _measure(context, attend, inputs)
        expected = found.pop("output") if expected is None else expected
        found.pop("output", None)
        kept[way] = found
        context.record("flex", name, kept)
    kept["SDPA in padded rows"] = _measure_padded(context, heads, padded, dtype)
    context.record("flex", name, kept)
    kept["FlexAttention"] = _measure_flex(context, inputs, packing, expected)
    context.record("flex", name, kept)


def _packings(context: Context) -> tuple[Any, tuple[int, int]]:
    """The packed row of some pairs, and the shape of their padded batch."""
    import torch

    from dpo_recipes.engine.packing import GroupLengths, pack

    rows, _ = pair_source.read_pairs(2 if context.is_tiny else 16, 32000, longest=12 if context.is_tiny else None)
    prompt = tuple(len(row["prompt_ids"]) for row in rows)
    whole = [tuple(len(row["prompt_ids"] + row["answer_ids"][number]) for row in rows) for number in (0, 1)]
    lengths = GroupLengths(prompt, tuple(whole), max(map(max, whole)))
    packing = pack(lengths, range(len(rows)), torch.device(context.device.kind))
    return packing, (2 * len(rows), lengths.width)


def _inputs(heads: tuple[int, int, int], tokens: int, device: str, dtype: Any) -> list[Any]:
    import torch

    torch.manual_seed(0)
    queries, keys, width = heads
    shapes = [(1, number, tokens, width) for number in (queries, keys, keys)]
    return [torch.randn(shape, device=device).to(dtype).requires_grad_() for shape in shapes]


def _measure(context: Context, attend: Any, inputs: list[Any]) -> dict[str, Any]:
    """Median seconds of forward, and of forward and backward; the output."""
    import torch

    output = attend(*inputs)
    gradient = torch.randn_like(output)

    def both() -> None:
        torch.autograd.grad(attend(*inputs), inputs, gradient)

    return {
        "forward_s": _median(context, lambda: attend(*inputs)),
        "forward_and_backward_s": _median(context, both),
        "output": output.detach(),
    }


def _median(context: Context, work: Any) -> float:
    repeats = 2 if context.is_tiny else _REPEATS
    return sorted(timed(context.device, work) for _ in range(repeats + 3))[(repeats + 3) // 2]


def _measure_padded(context: Context, heads: tuple[int, int, int], padded: tuple[int, int], dtype: Any) -> Any:
    """What a trainer without sharing computes: all rows, as long as the longest."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    rows, width = padded
    queries, keys, size = heads
    shapes = [(rows, number, width, size) for number in (queries, keys, keys)]
    inputs = [torch.randn(shape, device=context.device.kind).to(dtype).requires_grad_() for shape in shapes]
    measured = _measure(context, partial(scaled_dot_product_attention, is_causal=True, enable_gqa=True), inputs)
    del measured["output"]
    return measured


def _measure_flex(context: Context, inputs: list[Any], packing: Any, expected: Any) -> dict[str, Any]:
    """Compiled on CUDA, as it is meant; on a CPU its plain form, which has no backward pass there (torch 2.13)."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    device, on_cuda = context.device.kind, context.device.kind == "cuda"
    visible = partial(_visible, *_places(packing, device))
    tokens = packing.num_tokens
    mask_s = timed(context.device, lambda: create_block_mask(visible, None, None, tokens, tokens, device=device))
    block_mask = create_block_mask(visible, None, None, tokens, tokens, device=device)
    function = torch.compile(flex_attention, dynamic=False) if on_cuda else flex_attention

    def attend(query: Any, key: Any, value: Any) -> Any:
        return function(query, key, value, block_mask=block_mask, enable_gqa=True).transpose(1, 2)

    if not on_cuda:
        inputs = [tensor.detach() for tensor in inputs]
    first_s = timed(context.device, lambda: attend(*inputs))
    measured = _measure(context, attend, inputs) if on_cuda else {"output": attend(*inputs)}
    output = measured.pop("output")
    apart = (output.float() - expected.float()).norm() / expected.float().norm()
    return {**measured, "first_call_s": first_s, "block_mask_s": mask_s, "difference": apart.item()}


def _places(packing: Any, device: str) -> tuple[Any, Any, Any]:
    """Of each token its pair, whether it is in the second tail, and where its prompt ends, [T] each."""
    import torch

    pair = torch.empty(packing.num_tokens, dtype=torch.long)
    is_tail = torch.zeros(packing.num_tokens, dtype=torch.bool)
    prefix_end = torch.empty(packing.num_tokens, dtype=torch.long)
    for number, one in enumerate(packing.groups):
        pair[one.start : one.stop] = number
        is_tail[one.stop - one.tails[1] : one.stop] = True
        prefix_end[one.start : one.stop] = one.start + one.prefix
    return pair.to(device), is_tail.to(device), prefix_end.to(device)


def _visible(pair: Any, is_tail: Any, prefix_end: Any, _b: Any, _h: Any, query: Any, key: Any) -> Any:
    """A token sees its own pair's earlier tokens; a rejected tail of the chosen row only the shared prefix."""
    own = (is_tail[query] == is_tail[key]) | (is_tail[query] & (key < prefix_end[query]))
    return (pair[query] == pair[key]) & (query >= key) & own
