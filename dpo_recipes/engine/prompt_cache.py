"""The keys and values of prompts, computed once for all answers to the same prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicLayer

from dpo_recipes.model.sequences import pad_left

_LEAST_TOKENS = 2
"""A prompt of fewer tokens has none before its last one."""


def cache_of_prompts(model: Any, prompts: Sequence[list[int]], pad_id: int) -> dict[str, Any]:
    """The argument of `generate` with the keys and values of all but the last token of each prompt. Those of equal
    prompts that follow one another are computed once.

    Empty if no prompt is repeated, or if the model keeps something else than keys and values of all positions, such as
    a sliding window or the state of linear attention. `generate` itself computes the cache, because it knows what
    positions and masks a model needs; the configuration is that of the model at the moment.
    """
    firsts = [place for place, prompt in enumerate(prompts) if not place or prompt != prompts[place - 1]]
    if len(firsts) == len(prompts) or min(map(len, prompts)) < _LEAST_TOKENS:
        return {}
    ids, mask = pad_left([prompts[place][:-1] for place in firsts], pad_id, model.device)
    written = model.generate(
        input_ids=ids, attention_mask=mask, use_cache=True, max_new_tokens=1, return_dict_in_generate=True
    )
    # transformers 5.17 calls it `past_key_values`.
    name = next((name for name in ("cache", "past_key_values") if written.get(name) is not None), None)
    if name is None or not all(type(layer) is DynamicLayer for layer in getattr(written[name], "layers", [None])):
        return {}
    ends = [*firsts[1:], len(prompts)]
    rows = [row for row, (first, end) in enumerate(zip(firsts, ends, strict=True)) for _ in range(first, end)]
    written[name].batch_select_indices(torch.tensor(rows, device=model.device))
    return {name: written[name]}
