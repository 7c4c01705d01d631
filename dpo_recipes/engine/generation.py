"""Answers that the policy writes in training, each sampled with random numbers of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import GenerationConfig
from transformers.generation.logits_process import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from dpo_recipes.engine.backbone import in_evaluation_mode
from dpo_recipes.engine.prompt_cache import cache_of_prompts
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
        may change what is sampled. The token of the highest score is taken, because `noise` samples."""
        return GenerationConfig(
            do_sample=False,
            max_new_tokens=self.max_new_tokens,
            pad_token_id=self.pad_token_id,
            eos_token_id=list(self.end_ids),
        )

    def noise(self, seeds: Sequence[int], device: Any) -> LogitsProcessorList:
        """What changes the logits of a batch so that the token of the highest score is a sampled one."""
        processors: list[Any] = [TemperatureLogitsWarper(self.temperature)]
        if self.top_p < 1.0:
            processors.append(TopPLogitsWarper(self.top_p))
        return LogitsProcessorList([*processors, _OwnNoise(seeds, device)])


class _OwnNoise(LogitsProcessor):
    """Adds Gumbel noise to the logits of each answer, from a random generator of its own.

    The highest of the sums is a sample of the softmax. The random numbers of an answer depend on its seed alone: not
    on the answers beside it, and so neither on the batch size nor on the number of processes.
    """

    def __init__(self, seeds: Sequence[int], device: Any) -> None:
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        noise = torch.empty_like(scores)
        for row, generator in zip(noise, self._generators, strict=True):
            row.exponential_(generator=generator)
        # Minus the logarithm of an exponential variable is a Gumbel variable. A 0 would be infinite.
        return scores - noise.clamp_(min=torch.finfo(noise.dtype).tiny).log()


@torch.no_grad()
def write_answers(
    model: Any, prompts: Sequence[list[int]], sampling: Sampling, seeds: Sequence[int]
) -> list[list[int]]:
    """The ids of one answer to each prompt, with the token that ends it unless the answer is cut off.

    What is sampled for a prompt depends on its seed alone. The model is not changed: its weights keep their format, and
    autocast computes in another one.
    """
    answers: list[list[int]] = []
    with in_evaluation_mode(model), _with_config(model, sampling):
        for start in range(0, len(prompts), sampling.batch_size):
            part = slice(start, start + sampling.batch_size)
            cache = cache_of_prompts(model, prompts[part], sampling.pad_token_id)
            ids, mask = pad_left(prompts[part], sampling.pad_token_id, model.device)
            noise = sampling.noise(seeds[part], model.device)
            written = model.generate(
                input_ids=ids, attention_mask=mask, logits_processor=noise, use_cache=True, **cache
            )
            answers += [until_end(row, sampling.end_ids)[0] for row in written[:, ids.shape[1] :].tolist()]
    return answers


@dataclass(frozen=True)
class WrittenAnswers:
    """The same number of answers to each of some prompts: first all to the first prompt, and so on."""

    ids: list[list[int]]
    """With the token that ends an answer, unless it is cut off."""
    logps: list[list[float]] | None = None
    """The log-probability of each token when it was sampled, NaN if it is unknown; None if the policy has sampled
    itself."""


class AnswerWriter(Protocol):
    """Writes answers with the weights that the policy has now."""

    def refresh(self) -> None:
        """Forget the weights, which are about to be used for the first time since they may have changed."""
        ...

    def write(self, prompts: Sequence[list[int]], count: int, seeds: Sequence[int], *, repeats: bool) -> WrittenAnswers:
        """`count` answers to each prompt, with a seed for each answer. `repeats` says that equal seeds must give equal
        answers if the weights are equal, too."""
        ...


@dataclass(frozen=True)
class OwnWriter:
    """The policy itself writes, with transformers."""

    model: Any
    sampling: Sampling
    autocast: Callable[[], AbstractContextManager[Any]]
    """The context in which it computes."""

    def refresh(self) -> None:
        """Nothing to do: there is only one set of weights."""

    def write(self, prompts: Sequence[list[int]], count: int, seeds: Sequence[int], *, repeats: bool) -> WrittenAnswers:
        """Equal seeds give equal answers."""
        of_answers = [prompt for prompt in prompts for _ in range(count)]
        with self.autocast():
            return WrittenAnswers(write_answers(self.model, of_answers, self.sampling, seeds))


@contextmanager
def _with_config(model: Any, sampling: Sampling) -> Iterator[None]:
    """The model with the configuration of sampling in place of its own, and without checkpointing.

    transformers 5.17, the oldest that is allowed and the newest that vLLM 0.31 allows, switches off the cache of a
    model with checkpointing also in evaluation mode, in which later versions keep it.
    """
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
