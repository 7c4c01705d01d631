"""Rewards of the answers from reward models, rules and functions, and how good these are themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dpo_recipes.evaluate.intervals import mean_estimate, share_estimate
from dpo_recipes.evaluate.measures import TOTAL
from dpo_recipes.evaluate.result import JudgedSource
from dpo_recipes.evaluate.rows import UsableRows, answer_text
from dpo_recipes.reward_settings import RewardSettings
from dpo_recipes.rewards.base import RewardContext, RewardSources


class Judges:
    """All sources of rewards of an evaluation."""

    def __init__(self, settings: Sequence[RewardSettings], context: RewardContext, rows: UsableRows) -> None:
        """Load the sources. Raises what `RewardSources` raises."""
        self._sources, self._rows = RewardSources(settings, context), rows

    def score(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """The rewards of one answer to each prompt, by source, and with several sources their weighted sum.

        Raises `RunError` T670 and T671.
        """
        return self._score(self._rows.first_of_prompt, texts)

    def judge_pairs(self) -> list[JudgedSource]:
        """How often each source prefers the chosen answers in the data. Empty without pairs."""
        places = [place for place, row in enumerate(self._rows.rows) if len(row.answers) == 2]
        if not places:
            return []
        chosen, rejected = (
            self._score(places, [answer_text(self._rows.rows[place].answers[which]) for place in places])
            for which in (0, 1)
        )
        return [
            JudgedSource(
                name=name,
                accuracy=share_estimate(chosen[name] > rejected[name]),
                margin=mean_estimate(chosen[name] - rejected[name]),
            )
            for name in chosen
        ]

    def _score(self, places: Sequence[int], texts: Sequence[str]) -> dict[str, np.ndarray]:
        rows = [self._rows.rows[place] for place in places]
        columns = {name: [row.columns.get(name) for row in rows] for name in self._sources.columns}
        found = self._sources.score([row.prompt for row in rows], texts, columns, where=[row.where for row in rows])
        by_source = {name: np.array(values, float) for name, values in found.by_source.items()}
        return by_source if len(by_source) == 1 else {**by_source, TOTAL: np.array(found.total, float)}
