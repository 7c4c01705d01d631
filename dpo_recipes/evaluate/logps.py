"""Log-probabilities of given answers under a model, in batches."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dpo_recipes.cache import content_key
from dpo_recipes.evaluate.kept import KeptValues
from dpo_recipes.evaluate.passes import in_batches
from dpo_recipes.model.sequences import pad_left

VERSION = 1
"""Increased when the same input gives other values than before."""


@dataclass(frozen=True)
class Continuation:
    """An answer after its prompt."""

    prompt_ids: list[int]
    answer_ids: list[int]
    context: tuple[int, ...] = ()
    """The runs of the answer's tokens that do not count, as a flat list of starts and ends."""

    @property
    def num_tokens(self) -> int:
        """The number of tokens that count."""
        return len(self.answer_ids) - sum(self.context[1::2]) + sum(self.context[::2])


def sum_logps(
    key: str | None, load: Callable[[], Any], pad_id: int, continuations: Sequence[Continuation], batch_size: int
) -> list[float]:
    """The sum over the counted tokens of each answer of log π(token | everything before), in nats.

    `key` identifies the weights: values are kept in the cache under it. `load` gives the model and is called only if a
    value is missing.
    """
    keys = [content_key(one.prompt_ids, one.answer_ids, one.context) for one in continuations]
    kept = KeptValues("logps", None if key is None else content_key(VERSION, key))
    missing = {name: one for name, one in zip(keys, continuations, strict=True) if name not in kept}
    ordered = sorted(missing, key=lambda name: len(missing[name].prompt_ids + missing[name].answer_ids), reverse=True)
    with kept.appending() as keep:

        def compute(batch: Sequence[str]) -> None:
            values = _sum_batch(load(), pad_id, [missing[name] for name in batch])
            keep.add(dict(zip(batch, values, strict=True)))

        in_batches(ordered, batch_size, compute)
    return [kept[name] for name in keys]


@torch.no_grad()
def _sum_batch(model: Any, pad_id: int, batch: Sequence[Continuation]) -> list[float]:
    ids, mask = pad_left([[*one.prompt_ids, *one.answer_ids] for one in batch], pad_id, model.device)
    longest = max(len(one.answer_ids) for one in batch)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    # With padding on the left, all answers end in the last column: the head needs to score only these columns.
    kept = {"logits_to_keep": longest + 1} if _keeps_logits(model) else {}
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, **kept).logits
    sums = []
    for row, one in zip(logits, batch, strict=True):
        count = len(one.answer_ids)
        chosen = torch.tensor(one.answer_ids, device=ids.device)
        scores = row[-count - 1 : -1].float()
        logps = scores.gather(1, chosen[:, None])[:, 0] - scores.logsumexp(-1)
        counts = torch.ones(count, dtype=torch.bool, device=ids.device)
        for begin, end in zip(one.context[::2], one.context[1::2], strict=True):
            counts[begin:end] = False
        sums.append(logps[counts].double().sum().item() if logps.device.type != "mps" else logps[counts].sum().item())
    return sums


def _keeps_logits(model: Any) -> bool:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(inner.forward).parameters
