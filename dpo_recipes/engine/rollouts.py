"""Answers of the policy to the prompts of a micro-batch, with their rewards."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dpo_recipes.data.rows import Row
from dpo_recipes.engine.context import TrainingContext
from dpo_recipes.engine.generation import AnswerWriter, OwnWriter, Sampling, seed_of
from dpo_recipes.errors import DataError, RunError
from dpo_recipes.model.build import ModelBundle
from dpo_recipes.objectives.policy import PolicyParams, source_metric
from dpo_recipes.reward_settings import ModelReward
from dpo_recipes.rewards.base import RewardContext, RewardSources


@dataclass(frozen=True)
class Prompts:
    """B prompts to be answered."""

    ids: list[list[int]]
    rows: list[Row]
    places: list[int]
    """The places of the rows in their split."""


@dataclass(frozen=True)
class Rollout:
    """K answers to each of B prompts."""

    prompts: list[list[int]]
    answers: list[list[list[int]]]
    """[B][K] lists of ids."""
    rewards: torch.Tensor
    """[B, K]: the weighted sums of all sources."""
    by_source: dict[str, torch.Tensor]
    """[B, K] for each source."""
    is_cut: torch.Tensor
    """[B, K]: 1 for an answer that was cut off, 0 for one that has ended."""
    sampler_logps: list[list[list[float]]] | None = None
    """[B][K] lists of the log-probabilities of tokens when they were sampled; None if the policy has sampled itself."""

    def metrics(self) -> dict[str, tuple[torch.Tensor, int]]:
        """Sums over answers or groups, and the numbers of them, by the keys of metrics."""
        lengths = torch.tensor([[len(answer) for answer in group] for group in self.answers], dtype=torch.float32)
        deviations = self.rewards.std(dim=1)
        count, groups = self.rewards.numel(), len(self.rewards)
        return {
            "reward": (self.rewards.sum(), count),
            "reward_std": (deviations.sum(), groups),
            "completions/mean_length": (lengths.sum(), count),
            "completions/clipped_ratio": (self.is_cut.sum(), count),
            "frac_reward_zero_std": ((deviations < _EQUAL).float().sum(), groups),
            **{source_metric(name): (values.sum(), count) for name, values in self.by_source.items()},
        }


_EQUAL = 1e-6
"""A deviation below this is one of equal rewards."""


class RolloutWriter:
    """Has answers written, and scores them."""

    def __init__(
        self, answers: AnswerWriter, tokenizer: Any, end_ids: Collection[int], sources: RewardSources, num_answers: int
    ) -> None:
        self._answers, self._tokenizer, self._end_ids, self._sources = answers, tokenizer, end_ids, sources
        self._num_answers = num_answers

    def refresh(self) -> None:
        """The weights of the policy may have changed."""
        self._answers.refresh()

    def write(self, batches: Sequence[Prompts], *seed: Any, repeats: bool = False) -> list[Rollout]:
        """One rollout for each micro-batch of prompts; all answers are written together. What is sampled for a row
        depends on the `seed`, the row's place and the number of the answer, with vLLM only if it `repeats`.

        Raises `RunError` T670 and T671 for a failed source of rewards, and T672 if all answers are empty.
        """
        count = self._num_answers
        prompts = [ids for batch in batches for ids in batch.ids]
        rows = [row for batch in batches for row in batch.rows for _ in range(count)]
        seeds = [
            seed_of(*seed, place, number) for batch in batches for place in batch.places for number in range(count)
        ]
        written = self._answers.write(prompts, count, seeds, repeats=repeats)
        ids = written.ids
        texts = self._tokenizer.batch_decode(ids, skip_special_tokens=True)
        if not any(text.strip() for text in texts):
            raise _all_empty(len(texts))
        columns = {name: [row.columns.get(name) for row in rows] for name in self._sources.columns}
        scored = self._sources.score([row.prompt for row in rows], texts, columns, where=[row.where for row in rows])
        cut = [float(answer[-1] not in self._end_ids) for answer in ids]
        rollouts, start = [], 0
        for batch in batches:
            part = slice(start, start + count * len(batch.ids))
            start = part.stop
            rollouts.append(
                Rollout(
                    batch.ids,
                    self._groups(ids[part]),
                    self._by_group(scored.total[part]),
                    {name: self._by_group(values[part]) for name, values in scored.by_source.items()},
                    self._by_group(cut[part]),
                    None if written.logps is None else self._groups(written.logps[part]),
                )
            )
        return rollouts

    def _groups(self, values: list[Any]) -> list[list[Any]]:
        return [values[first : first + self._num_answers] for first in range(0, len(values), self._num_answers)]

    def _by_group(self, values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32).reshape(-1, self._num_answers)


def rollout_writer(model: Any, accelerator: Any, bundle: ModelBundle, context: TrainingContext) -> RolloutWriter:
    """What writes and scores the answers of a run."""
    params, tokenizer = context.recipe.objective, bundle.tokenizer
    assert isinstance(params, PolicyParams), "only a policy writes answers"
    ends = tuple(sorted({*bundle.chat.end_ids, tokenizer.eos_token_id}))
    sampling = Sampling(
        params.max_new_tokens,
        params.temperature,
        params.top_p,
        params.generation_batch_size,
        tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        ends,
    )
    trust = bundle.trust_remote_code
    of_rewards = RewardContext(context.device, context.reward_functions, trust_remote_code=trust)
    sources = RewardSources(params.rewards, of_rewards)
    answers: AnswerWriter = OwnWriter(model, sampling, accelerator.autocast)
    # A trainer that is only measured writes no answers, and starts no vLLM.
    if context.row_of is not None and params.generation.uses_vllm:
        from dpo_recipes.engine.vllm import VllmWriter

        answers = VllmWriter(model, accelerator, bundle, context, sampling)
    return RolloutWriter(answers, tokenizer, ends, sources, params.num_generations)


def check_prompts(first: Row, params: PolicyParams) -> None:
    """Raise `DataError` D418 if a reward model would read prompts in the template of the policy."""
    if first.rendered and any(isinstance(source, ModelReward) for source in params.rewards):
        raise DataError.of(
            "D418",
            f"{first.where} has a prompt that a template has already rendered",
            why="a reward model reads prompts in its own template, and needs the messages",
            fix="use a `format` with messages or plain texts, such as `prompt` or `preference`",
        )


def _all_empty(count: int) -> RunError:
    return RunError.of(
        "T672",
        f"all {count} answers of a step are empty",
        at=("chat_template",),
        why="the model ends each answer with its first token, so that there is nothing to reward: its template may not "
        "be the one that it was trained with, or rewards prefer saying nothing",
        fix="compare `chat_template` with the model's own, or reward what an answer says, for example with "
        "`{rule: length, min: 5}`; `dpo-recipe data --show 3` shows the prompts",
    )
