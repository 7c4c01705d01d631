"""Answers of a model to prompts, in batches. An answer depends on its prompt, the settings and its own seed only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from dpo_recipes.cache import content_key
from dpo_recipes.evaluate.kept import KeptValues
from dpo_recipes.evaluate.passes import in_batches
from dpo_recipes.model.sequences import pad_left, until_end
from dpo_recipes.recipe.schema.evaluate import Generate

VERSION = 1
"""Increased when the same input gives other answers than before, so that older ones in the cache are not used."""


@dataclass(frozen=True)
class Prompt:
    """A prompt as one model reads it."""

    name: str
    """Identifies the prompt among all models, whatever their templates make of it. With the seed, it determines the
    random numbers of the answer."""
    ids: list[int]
    """The rendered prompt, which ends with the generation prompt."""


@dataclass(frozen=True)
class Answer:
    """An answer to one prompt."""

    ids: list[int]
    """Up to and with the token that ends it, if there is one."""
    text: str
    """Without special tokens and surrounding white space."""
    is_cut_off: bool
    """Whether it reached the maximum length without an end."""


@dataclass(frozen=True)
class Speaker:
    """What generating answers needs beside the weights of a model."""

    key: str | None
    """Identifies the weights and their precision; None if that is impossible, and answers are not kept."""
    tokenizer: Any
    end_ids: frozenset[int]
    load: Callable[[], Any]
    """Gives the model. It is called only if an answer is missing."""


def generate(
    speaker: Speaker,
    prompts: Sequence[Prompt],
    settings: Generate,
    *,
    sample: int = 0,
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[Answer]:
    """The answer of a model to each prompt. `sample` numbers several answers to a prompt.

    Answers that were generated before come from the cache, and new ones are kept there after each batch.
    `on_progress` gets the number of answers that are complete.
    """
    fields = settings.model_dump(exclude={"batch_size"})
    if settings.temperature == 0.0:
        fields |= {"seed": 0, "top_p": 1.0}  # they have no effect
        sample = 0
    keys = [content_key(prompt.name, prompt.ids, sample) for prompt in prompts]
    described = [VERSION, speaker.key, fields, sorted(speaker.end_ids)]
    kept = KeptValues("answers", None if speaker.key is None else content_key(*described))
    missing = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in kept}
    done = len(keys) - len(missing)
    with kept.appending() as keep:
        ordered = sorted(missing, key=lambda key: len(missing[key].ids), reverse=True)

        def answer(batch: Sequence[str]) -> None:
            nonlocal done
            seeds = [_seed_of(settings.seed, missing[key].name, sample) for key in batch]
            made = _generate_batch(speaker, [missing[key].ids for key in batch], settings, seeds)
            keep.add({key: asdict(answer) for key, answer in zip(batch, made, strict=True)})
            done += len(batch)
            on_progress(done)

        in_batches(ordered, settings.batch_size, answer)
    return [Answer(**kept[key]) for key in keys]


def _seed_of(*parts: Any) -> int:
    """The seed of one answer, the same for all models."""
    return int(content_key(*parts)[:15], 16)


@torch.no_grad()
def _generate_batch(
    speaker: Speaker, prompts: Sequence[list[int]], settings: Generate, seeds: Sequence[int]
) -> list[Answer]:
    model, tokenizer = speaker.load(), speaker.tokenizer
    ids, mask = pad_left(prompts, tokenizer.pad_token_id, model.device)
    processors = LogitsProcessorList([SeededChoice(settings, seeds)] if settings.temperature else [])
    ends = sorted(speaker.end_ids)
    # Without the model's own configuration, whose penalties and sampling values are not those of the evaluation.
    neutral = GenerationConfig(
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
        max_new_tokens=settings.max_new_tokens,
    )
    before, model.generation_config = model.generation_config, neutral
    try:
        output = model.generate(
            input_ids=ids, attention_mask=mask, generation_config=neutral, logits_processor=processors
        )
    finally:
        model.generation_config = before
    answers = []
    for row in output[:, ids.shape[1] :].tolist():
        kept, has_ended = until_end(row, speaker.end_ids)
        text = tokenizer.decode(kept, skip_special_tokens=True).strip()
        answers.append(Answer(kept, text, is_cut_off=not has_ended))
    return answers


class SeededChoice(LogitsProcessor):
    """Samples the next token of each row with a random number of the row's own generator, and leaves only that token,
    which greedy decoding then chooses.

    `generate` itself draws the tokens of a whole batch from one generator, so that an answer would change with the
    other rows. The random number is compared with the cumulative probabilities in the order of the token ids, so models
    that agree about a distribution choose the same token.
    """

    def __init__(self, settings: Generate, seeds: Sequence[int]) -> None:
        self._warpers: list[Any] = []
        if settings.temperature != 1.0:
            self._warpers.append(TemperatureLogitsWarper(settings.temperature))
        if settings.top_p < 1.0:
            self._warpers.append(TopPLogitsWarper(settings.top_p))
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores of minus infinity for all tokens but the chosen one of each row."""
        scores = scores.float()
        for warper in self._warpers:
            scores = warper(input_ids, scores)
        exact = torch.float32 if scores.device.type == "mps" else torch.float64
        cumulative = scores.softmax(-1).to(exact).cumsum(-1)
        drawn = torch.cat([torch.rand(1, generator=one, dtype=torch.float64) for one in self._generators])
        thresholds = drawn.to(scores.device, exact) * cumulative[:, -1]
        chosen = torch.searchsorted(cumulative, thresholds[:, None], right=True)
        chosen = chosen.clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)
