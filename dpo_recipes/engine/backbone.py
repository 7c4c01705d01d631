"""The hidden states of a padded batch from a model's backbone: computed in packed rows, or in several padded parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import pad

from dpo_recipes.engine.attention import KEYWORD
from dpo_recipes.engine.packing import GroupLengths, Packing, pack, split_by_tokens


def compute_packed(forward: Callable[..., Any], ids: torch.Tensor, packing: Packing) -> Any:
    """The output of a backbone's own forward for the packed row; `ids` are those of the padded batch, [K·B, L]."""
    # transformers 5.23 passes a mask of four dimensions unchanged to the layers; otherwise it would create one of T ×
    # T, which attention in packed rows does not read.
    unread_mask = torch.empty(1, 1, 1, 1, device=ids.device)
    return forward(
        input_ids=packing.gather(ids),
        position_ids=packing.position_ids,
        attention_mask=unread_mask,
        use_cache=False,
        **{KEYWORD: packing},
    )


def forward_packed(plain: Any, ids: torch.Tensor, lengths: GroupLengths, max_tokens: int | None) -> Any:
    """The backbone's output for a padded batch, computed in packed rows of at most `max_tokens` distinct tokens."""
    outputs: Any = None
    hidden: list[torch.Tensor] = []
    for groups in split_by_tokens(lengths.distinct, max_tokens):
        packing = pack(lengths, groups, ids.device)
        outputs = compute_packed(plain, ids, packing)
        hidden.append(packing.scatter(outputs.last_hidden_state))
    outputs.last_hidden_state = hidden[0] if len(hidden) == 1 else _join(hidden, lengths.answers_per_group)
    return outputs


def forward_padded(plain: Any, kwargs: dict[str, Any], lengths: GroupLengths, passes: list[range]) -> Any:
    """The backbone's output for a padded batch, computed in passes of groups without positions that are padding in all
    their rows."""
    num_groups = len(lengths.prefix)
    outputs: Any = None
    hidden: list[torch.Tensor] = []
    pooled: list[torch.Tensor] = []
    for groups in passes:
        columns = lengths.columns(groups)
        rows = [answer * num_groups + group for answer in range(lengths.answers_per_group) for group in groups]
        own = {name: _part(kwargs.get(name), rows, columns) for name in _OF_POSITIONS}
        outputs = plain(**kwargs | {name: part for name, part in own.items() if part is not None})
        hidden.append(pad(outputs.last_hidden_state, (0, 0, columns.start, lengths.width - columns.stop)))
        if (of_pooler := getattr(outputs, "pooler_output", None)) is not None:
            pooled.append(of_pooler)
    outputs.last_hidden_state = _join(hidden, lengths.answers_per_group)
    if pooled:
        outputs.pooler_output = _join(pooled, lengths.answers_per_group)
    return outputs


_OF_POSITIONS = ("input_ids", "attention_mask", "position_ids", "token_type_ids")
"""The arguments of a backbone that have a value for each position, [K·B, L]."""


def _part(tensor: torch.Tensor | None, rows: list[int], columns: range) -> torch.Tensor | None:
    return None if tensor is None else tensor[rows, columns.start : columns.stop]


def _join(hidden: list[torch.Tensor], num_answers: int) -> torch.Tensor:
    """[K·b, ...] of each pass → [K·B, ...]: the first rows of all groups, then the second ones, and so on."""
    parts = [of_pass.chunk(num_answers) for of_pass in hidden]
    return torch.cat([of_pass[answer] for answer in range(num_answers) for of_pass in parts])


@contextmanager
def in_evaluation_mode(model: Any) -> Iterator[None]:
    """Switch off dropout and whatever else modules do in training mode, and restore the mode of each."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
