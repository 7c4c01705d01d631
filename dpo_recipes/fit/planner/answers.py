"""Plans an evaluation or a sampling: peak memory, time and disk use of models that answer, score and are judged.

One model after the other is in memory, and after them all reward models (evaluate/speak.py, evaluate/judges.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from dpo_recipes.evaluate.intervals import NUM_RESAMPLES
from dpo_recipes.fit.planner.disk import ITEM_BYTES
from dpo_recipes.fit.planner.memory import MIB, Phase
from dpo_recipes.fit.planner.reward_models import RewardModelPlan
from dpo_recipes.fit.planner.target import Target
from dpo_recipes.fit.planner.writing import cache_bytes, logits_bytes, token_s
from dpo_recipes.fit.simulation.inference import simulate_reading
from dpo_recipes.fit.simulation.meta_model import Weights, load_meta_model, weigh
from dpo_recipes.model.sources import resolve_model
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.schema.evaluate import Generate

PROCESS_BYTES = {"cpu": 430 * MIB, "cuda": 64 * MIB, "mps": 0}
"""Python with torch, transformers and datasets; on a GPU what cuBLAS keeps (as fit/planner/memory.py says)."""
_FRAGMENTATION = 0.10
"""Memory that an allocator holds beyond what is in use, as a share of temporary tensors. What training adds to it on a
CPU (fit/planner/memory.py) comes from tensors that are kept for a backward pass."""
_RESAMPLE_BYTES = 8 * 6
"""For each prompt of each resample of a bootstrap: the weights as they are drawn and as they are used, and what a
statistic computes from them."""
_STORED_BYTES = 16
"""For each token of an answer: its id in the cache, and its text there and in the file of answers."""


@dataclass(frozen=True)
class TextLengths:
    """The lengths of what one model reads, in tokens."""

    prompts: np.ndarray
    """[prompts]: those that it answers."""
    texts: np.ndarray
    """[texts, 2]: prompt and answer of each answer in the data that it scores."""


@dataclass(frozen=True)
class Passes:
    """What a series of batches takes."""

    num_bytes: int
    """Temporary memory at the peak."""
    seconds: float


class AnsweringModel:
    """A model that answers and scores, without its weights."""

    def __init__(self, name: str, recipe: Recipe, target: Target, *, trust_remote_code: bool = False) -> None:
        """`recipe` describes the model, and may be the one that will train it. Reads its base's configuration. Raises
        `RunError` M504, M509, M511."""
        self.name, self.recipe = name, recipe
        trust = trust_remote_code and recipe.model.trust_remote_code
        meta_model = load_meta_model(recipe, resolve_model(recipe.model), target.device.kind, trust_remote_code=trust)
        dtype = target.dtype(recipe, getattr(meta_model.config, "model_type", None))
        self._meta_model = replace(meta_model.with_dtype(dtype), trains=False)
        self.dtype, self.rates = dtype, target.rates(dtype)

    @property
    def config(self) -> Any:
        """transformers' configuration."""
        return self._meta_model.config

    @cached_property
    def weights(self) -> Weights:
        """The sizes of its weights."""
        return weigh(self._meta_model, self._built)

    @property
    def loading_bytes(self) -> int:
        """What loading takes beside the weights: a GGUF file is mapped into memory, and its largest matrix is unpacked
        twice, as numbers of 32 bits and in the order of transformers."""
        path = self._meta_model.location.gguf_path
        if path is None:
            return 0
        return path.stat().st_size + 2 * 4 * max(weight.numel() for weight in self._built.parameters())

    @cached_property
    def _built(self) -> Any:
        return self._meta_model.build()

    def write(self, prompts: np.ndarray, num_tokens: int, batch_size: int) -> Passes:
        """Answers of this length to prompts of these lengths, as evaluate/generation.py writes them."""
        if not len(prompts):
            return Passes(0, 0.0)
        rows, longest, mean = min(batch_size, len(prompts)), int(prompts.max()), float(prompts.mean())
        first = simulate_reading(self._meta_model, rows, longest, 1, self.rates)
        of_prompt, whole = (self._cache(rows, tokens) for tokens in (longest, longest + num_tokens))
        # For its newest token, a layer copies its keys and values.
        last = whole + whole // self._meta_model.num_layers + logits_bytes(self.config, rows)
        reading = first.seconds * mean / longest + num_tokens * self._cache(rows, mean + num_tokens / 2) / (
            self.rates.bandwidth
        )
        seconds = reading + num_tokens * token_s(self.weights, rows, self.rates)
        return Passes(max(of_prompt + int(sum(first.peak)), last), math.ceil(len(prompts) / rows) * seconds)

    def score(self, texts: np.ndarray, batch_size: int) -> Passes:
        """The log-probabilities of answers, [texts, 2], as evaluate/logps.py computes them."""
        if not len(texts):
            return Passes(0, 0.0)
        rows, widths = min(batch_size, len(texts)), texts.sum(axis=1)
        # The longest texts are in one batch, in which the longest answer decides how many positions the head meets.
        together = texts[np.argsort(-widths, kind="stable")[:rows]]
        longest = int(widths.max())
        trace = simulate_reading(self._meta_model, rows, longest, int(together[:, 1].max()) + 1, self.rates)
        seconds = trace.seconds * float(widths.mean()) / longest
        return Passes(int(sum(trace.peak)), math.ceil(len(texts) / rows) * seconds)

    def _cache(self, num_rows: int, num_tokens: float) -> int:
        return cache_bytes(self.config, num_rows, int(num_tokens), ITEM_BYTES[self.dtype])


@dataclass(frozen=True)
class Planned:
    """A model with what it reads, and the base that it is compared with."""

    model: AnsweringModel
    lengths: TextLengths
    base: AnsweringModel | None = None


@dataclass(frozen=True)
class Asked:
    """What all models are asked for."""

    generate: Generate
    num_answers: int = 1
    """To each prompt."""
    scores_texts: bool = False
    """Whether the answers in the data are scored, by each model and its base."""
    kl_prompts: int = 0
    resamples: bool = False
    """Whether metrics have bootstrap intervals."""


@dataclass(frozen=True)
class AnswersPlan:
    """What an evaluation or a sampling needs."""

    target: Target
    phases: tuple[Phase, ...]
    stages_s: dict[str, float] | None
    """Without loading the models; None if the number of rows is not known."""
    disk_bytes: int | None
    num_prompts: int | None
    is_read: bool
    """Whether the prompts have been read. Otherwise they are taken to be as long as they can be."""

    @property
    def highest(self) -> Phase:
        """The phase with the highest peak."""
        return max(self.phases, key=lambda phase: phase.peak_bytes)

    @property
    def fits(self) -> bool:
        """Whether the peak fits into the device's memory."""
        return self.highest.peak_bytes <= self.target.usable_bytes

    @property
    def time_s(self) -> float | None:
        """All stages together."""
        return None if self.stages_s is None else sum(self.stages_s.values())

    def to_json(self) -> dict[str, Any]:
        """The plan as plain data; bytes, seconds and counts."""
        return {
            "hardware": self.target.device.name,
            "fits": self.fits,
            "device_bytes": self.target.usable_bytes,
            "peak_bytes": self.highest.peak_bytes,
            "parts": self.highest.parts,
            "peak_phase": self.highest.name,
            "phases": {phase.name: phase.peak_bytes for phase in self.phases},
            "num_prompts": self.num_prompts,
            "is_data_read": self.is_read,
            "time_s": self.time_s,
            "stages_s": self.stages_s,
            "disk_bytes": self.disk_bytes,
        }


def plan_answers(
    models: Sequence[Planned],
    asked: Asked,
    rewards: Sequence[RewardModelPlan],
    target: Target,
    *,
    num_prompts: int | None,
    is_read: bool,
) -> AnswersPlan:
    """The plan for models whose answers are as long as they may be. `num_prompts` is None if it is not known; then the
    lengths stand for one batch."""
    planner = _Planner(asked, target)
    for planned in models:
        planner.ask(planned)
    for planned in models:
        planner.ask_base(planned)
    planner.judge(models, rewards)
    if asked.resamples and num_prompts:
        planner.phase("intervals", {"activations": NUM_RESAMPLES * _RESAMPLE_BYTES * num_prompts})
    tokens = asked.generate.max_new_tokens * (asked.num_answers * (num_prompts or 0) + asked.kl_prompts)
    return AnswersPlan(
        target,
        tuple(planner.phases),
        None if num_prompts is None else planner.stages_s,
        None if num_prompts is None else tokens * len(models) * _STORED_BYTES,
        num_prompts,
        is_read,
    )


class _Planner:
    """Collects the phases and the times of an evaluation in its order."""

    def __init__(self, asked: Asked, target: Target) -> None:
        self._asked, self._target = asked, target
        self.phases: list[Phase] = []
        self.stages_s: dict[str, float] = {}

    def phase(self, name: str, parts: dict[str, int]) -> None:
        """Add a phase on top of what the process takes."""
        moving = parts.get("activations", 0) + parts.get("cache", 0)
        overhead = PROCESS_BYTES[self._target.device.kind]
        parts = {**parts, "overhead": overhead, "fragmentation": int(_FRAGMENTATION * moving)}
        self.phases.append(Phase(name, {part: size for part, size in parts.items() if size}))

    def _spend(self, stage: str, seconds: float) -> None:
        self.stages_s[stage] = self.stages_s.get(stage, 0.0) + seconds

    def ask(self, planned: Planned) -> None:
        """Answers, log-probabilities, and the samples for the KL divergence."""
        model, lengths, asked = planned.model, planned.lengths, self._asked
        self._load(model)
        size, tokens = asked.generate.batch_size, asked.generate.max_new_tokens
        written = model.write(lengths.prompts, tokens, size)
        self._spend("answers", asked.num_answers * written.seconds)
        self.phase(f"answers of {model.name}", {**_resident(model), "cache": written.num_bytes})
        if asked.scores_texts:
            self._score(planned, model)
        if asked.kl_prompts and planned.base is not None:
            count = min(asked.kl_prompts, len(lengths.prompts))
            self._spend(
                "divergence", written.seconds * math.ceil(count / size) / math.ceil(len(lengths.prompts) / size)
            )
            self._score_samples(planned, model)

    def _load(self, model: AnsweringModel) -> None:
        overhead = PROCESS_BYTES[self._target.device.kind]
        parts = {**_resident(model), "unpacked": model.loading_bytes, "overhead": overhead}
        self.phases.append(Phase(f"loading {model.name}", parts))

    def ask_base(self, planned: Planned) -> None:
        """The same log-probabilities under the base."""
        if planned.base is None:
            return
        self._load(planned.base)
        if self._asked.scores_texts:
            self._score(planned, planned.base)
        if self._asked.kl_prompts:
            self._score_samples(planned, planned.base)

    def _score(self, planned: Planned, model: AnsweringModel) -> None:
        scored = model.score(planned.lengths.texts, self._asked.generate.batch_size)
        self._spend("scores", scored.seconds)
        self.phase(f"scores of {model.name}", {**_resident(model), "activations": scored.num_bytes})

    def _score_samples(self, planned: Planned, model: AnsweringModel) -> None:
        prompts = planned.lengths.prompts[: self._asked.kl_prompts]
        samples = np.stack([prompts, np.full_like(prompts, self._asked.generate.max_new_tokens)], axis=1)
        scored = model.score(samples, self._asked.generate.batch_size)
        self._spend("divergence", scored.seconds)
        self.phase(f"samples under {model.name}", {**_resident(model), "activations": scored.num_bytes})

    def judge(self, models: Sequence[Planned], rewards: Sequence[RewardModelPlan]) -> None:
        """The rewards of all answers, and of those in the data, by reward models that are in memory together."""
        here = [reward for reward in rewards if reward.meta_model.device == self._target.device.kind]
        asked, lengths = self._asked, models[0].lengths
        written = lengths.prompts + asked.generate.max_new_tokens
        given = lengths.texts.sum(axis=1) if asked.scores_texts else np.zeros(0)
        num_answers = len(models) * asked.num_answers * len(written)
        for reward in rewards:
            rates = self._target.rates(reward.meta_model.dtype)
            self._spend("rewards", reward.seconds(num_answers, float(written.mean()), rates))
            if len(given):
                self._spend("rewards", reward.seconds(len(given), float(given.mean()), rates))
        if here:
            longest = int(max(written.max(), given.max(initial=0)))
            moving = [
                reward.activations(longest, max(len(written), 1), self._target.rates(reward.meta_model.dtype))
                for reward in here
            ]
            self.phase("rewards", {"reward_models": sum(one.num_bytes for one in here), "activations": max(moving)})


def _resident(model: AnsweringModel) -> dict[str, int]:
    return {"weights": model.weights.base, "adapter": model.weights.adapter}
