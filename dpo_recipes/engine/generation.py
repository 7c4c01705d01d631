"""Answers that the policy writes in training, sampled with a random state of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from dpo_recipes.engine.backbone import in_evaluation_mode
from dpo_recipes.engine.probe import cuda_devices
from dpo_recipes.model.sequences import pad_left, until_end


@dataclass(frozen=True)
class Sampling:
    """How answers are sampled."""

    max_new_tokens: int
    temperature: float
    top_p: float
    batch_size: int
    """Answers that are written at once."""
    pad_token_id: int
    end_ids: tuple[int, ...]
    """Tokens that end an answer."""

    def config(self) -> GenerationConfig:
        """transformers' configuration, in which the base's own one has no part: neither its `top_k` nor its penalties
        may change what is sampled."""
        return GenerationConfig(
            do_sample=True,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=0,
            pad_token_id=self.pad_token_id,
            eos_token_id=list(self.end_ids),
        )


@torch.no_grad()
def write_answers(model: Any, prompts: Sequence[list[int]], sampling: Sampling, seed: int) -> list[list[int]]:
    """The ids of one answer to each prompt, with the token that ends it unless the answer is cut off.

    The random state is restored, so that what is sampled depends on the seed alone. The model is not changed: its
    weights keep their format, and autocast computes in another one.
    """
    answers: list[list[int]] = []
    with torch.random.fork_rng(devices=cuda_devices()), in_evaluation_mode(model), _with_config(model, sampling):
        torch.manual_seed(seed)
        for start in range(0, len(prompts), sampling.batch_size):
            ids, mask = pad_left(prompts[start : start + sampling.batch_size], sampling.pad_token_id, model.device)
            written = model.generate(input_ids=ids, attention_mask=mask, use_cache=True)
            answers += [until_end(row, sampling.end_ids)[0] for row in written[:, ids.shape[1] :].tolist()]
    return answers


@contextmanager
def _with_config(model: Any, sampling: Sampling) -> Iterator[None]:
    """The model with the configuration of sampling in place of its own, and without checkpointing, which would switch
    off the cache."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    own, base.generation_config = base.generation_config, sampling.config()
    own_of_adapter = vars(model).get("generation_config")
    if model is not base:
        model.generation_config = base.generation_config
    checkpointed = [module for module in base.modules() if getattr(module, "gradient_checkpointing", False)]
    for module in checkpointed:
        module.gradient_checkpointing = False
    try:
        yield
    finally:
        base.generation_config = own
        if model is not base:
            model.generation_config = own if own_of_adapter is None else own_of_adapter
        for module in checkpointed:
            module.gradient_checkpointing = True


def seed_of(*parts: Any) -> int:
    """A seed that depends on all parts, such as the run's seed and a step."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
