"""The built-in rules, which look at the text of an answer and at columns of its row."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dpo_recipes.reward_settings import ExactReward, JsonReward, LengthReward, RegexReward, RepetitionReward
from dpo_recipes.rewards.base import Columns, Prompt, RewardContext

_FENCE = re.compile(r"\s*```\w*\n(.*?)\n?```\s*", re.DOTALL)


@dataclass(frozen=True)
class Length:
    """Whether an answer has a length within bounds."""

    settings: LengthReward
    context: RewardContext

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str], columns: Columns) -> list[float]:
        """From 0 to 1."""
        return list(map(self._of, answers))

    def _of(self, answer: str) -> float:
        length = len(answer.split()) if self.settings.unit == "words" else len(answer)
        low, high = self.settings.min, self.settings.max
        if length < low:
            return length / low
        if high is not None and length > high:
            return max(0.0, 1.0 - (length - high) / high)
        return 1.0


class Regex:
    """The share of the wanted matches of a pattern."""

    def __init__(self, settings: RegexReward, context: RewardContext) -> None:
        self._pattern, self._settings = re.compile(settings.pattern), settings

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str], columns: Columns) -> list[float]:
        """From 0 to 1."""
        return list(map(self._of, answers))

    def _of(self, answer: str) -> float:
        if self._settings.whole:
            return float(self._pattern.fullmatch(answer.strip()) is not None)
        wanted = self._settings.count
        found = 0
        for _ in self._pattern.finditer(answer):
            found += 1
            if found == wanted:
                break
        return found / wanted


@dataclass(frozen=True)
class Json:
    """Whether an answer is JSON with some keys."""

    settings: JsonReward
    context: RewardContext

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str], columns: Columns) -> list[float]:
        """0 or 1."""
        return [float(self._is_valid(answer)) for answer in answers]

    def _is_valid(self, answer: str) -> bool:
        fenced = _FENCE.fullmatch(answer) if self.settings.allow_fence else None
        try:
            value = json.loads(fenced[1] if fenced else answer, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return False
        keys = self.settings.keys
        return not keys or (isinstance(value, dict) and all(key in value for key in keys))


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")  # Python reads NaN and Infinity


class Exact:
    """Whether an answer equals a column."""

    def __init__(self, settings: ExactReward, context: RewardContext) -> None:
        self._settings = settings
        self._extract = None if settings.extract is None else re.compile(settings.extract)

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str], columns: Columns) -> list[float]:
        """0 or 1."""
        right = columns[self._settings.column]
        return [
            float(found is not None and self._plain(found) == self._plain(_as_text(wanted)))
            for found, wanted in zip(map(self._find, answers), right, strict=True)
        ]

    def _find(self, answer: str) -> str | None:
        if self._extract is None:
            return answer
        matches = list(self._extract.finditer(answer))
        if not matches:
            return None
        return matches[-1][1] if self._extract.groups else matches[-1][0]

    def _plain(self, text: str) -> str:
        text = text.strip()
        return text.casefold() if self._settings.ignore_case else text


def _as_text(value: Any) -> str:
    """The value of a column as a person would write it: a whole number that a file has as 4.0 is `4`."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class Repetition:
    """Minus the share of repeated n-grams."""

    settings: RepetitionReward
    context: RewardContext

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str], columns: Columns) -> list[float]:
        """From -1 to 0."""
        return list(map(self._of, answers))

    def _of(self, answer: str) -> float:
        words = answer.lower().split()
        length = self.settings.ngram
        grams = [tuple(words[start : start + length]) for start in range(len(words) - length + 1)]
        return len(set(grams)) / len(grams) - 1.0 if grams else 0.0
