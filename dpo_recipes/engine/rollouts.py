"""Answers of the policy to the prompts of a micro-batch, with their rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dpo_recipes.data.rows import Row
from dpo_recipes.engine.generation import Sampling, write_answers
from dpo_recipes.errors import RunError
from dpo_recipes.objectives.policy import source_metric
from dpo_recipes.rewards.base import RewardSources


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
    """Lets the policy write answers, and scores them."""

    def __init__(self, tokenizer: Any, sampling: Sampling, sources: RewardSources, num_answers: int) -> None:
        self._tokenizer, self._sampling, self._sources = tokenizer, sampling, sources
        self._num_answers = num_answers

    def write(self, model: Any, batches: Sequence[tuple[list[list[int]], list[Row]]], seed: int) -> list[Rollout]:
        """One rollout for each micro-batch of prompts and their rows; all answers are written together.

        Raises `RunError` T670 and T671 for a failed source of rewards, and T672 if all answers are empty.
        """
        count = self._num_answers
        prompts = [ids for of_batch, _ in batches for ids in of_batch for _ in range(count)]
        rows = [row for _, of_batch in batches for row in of_batch for _ in range(count)]
        ids = write_answers(model, prompts, self._sampling, seed)
        texts = self._tokenizer.batch_decode(ids, skip_special_tokens=True)
        if not any(text.strip() for text in texts):
            raise _all_empty(len(texts))
        columns = {name: [row.columns.get(name) for row in rows] for name in self._sources.columns}
        scored = self._sources.score([row.prompt for row in rows], texts, columns, where=[row.where for row in rows])
        cut = [float(answer[-1] not in self._sampling.end_ids) for answer in ids]
        rollouts, start = [], 0
        for of_batch, _ in batches:
            part = slice(start, start + count * len(of_batch))
            start = part.stop
            rollouts.append(
                Rollout(
                    of_batch,
                    [ids[first : first + count] for first in range(part.start, part.stop, count)],
                    self._by_group(scored.total[part]),
                    {name: self._by_group(values[part]) for name, values in scored.by_source.items()},
                    self._by_group(cut[part]),
                )
            )
        return rollouts

    def _by_group(self, values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32).reshape(-1, self._num_answers)


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
