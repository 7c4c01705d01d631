"""The interface of a source of rewards, and a list of sources with their weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Protocol

from dpo_recipes import registry
from dpo_recipes.data.message import Message
from dpo_recipes.errors import DpoRecipeError, Finding, RunError, in_one_line, is_lack_of_machine
from dpo_recipes.reward_settings import RewardSettings, needed_columns, source_names

Prompt = Sequence[Message]
"""The messages before an answer."""
Columns = Mapping[str, Sequence[Any]]
"""Values of the rows beside prompt and answer, by the name of their column: one for each answer."""


class RewardSource(Protocol):
    """Gives each answer one number."""

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str], columns: Columns) -> Sequence[float]:
        """One number for each answer to the prompt at the same place."""
        ...


@dataclass(frozen=True)
class RewardContext:
    """What a source needs to know of the run that uses it."""

    device: str
    """The device of the run: `cpu`, `cuda` or `mps`."""
    allowed_functions: frozenset[str] = frozenset()
    """The functions that the person has allowed on the command line, as `/path/file.py:name`."""
    trust_remote_code: bool = False
    """Whether a reward model may run code of its repository."""
    at: tuple[str | int, ...] = ("objective", "rewards")
    """The path of the list of sources in the recipe, for errors."""


@dataclass(frozen=True)
class Rewards:
    """The rewards of some answers, by the name of their source."""

    by_source: dict[str, list[float]]
    total: list[float]
    """The sum over all sources, each multiplied by its weight."""


class RewardSources:
    """All sources of a list `rewards:`, loaded and ready to score."""

    def __init__(self, settings: Sequence[RewardSettings], context: RewardContext) -> None:
        """Load the sources. Raises `RecipeError` R386 and R387 for a function, and for a reward model `RunError` M528,
        M529 and those of loading a model, each with the place of the source in the recipe."""
        self._context = context
        self._weights = [source.weight for source in settings]
        self.names = source_names(settings)
        self.columns = needed_columns(settings)
        """The columns of the rows that the sources read."""
        self._sources = [_load(source, context, place) for place, source in enumerate(settings)]

    def score(
        self, prompts: Sequence[Prompt], answers: Sequence[str], columns: Columns, *, where: Sequence[str] = ()
    ) -> Rewards:
        """The rewards of answers. `where` are the locations of their rows, for errors.

        Raises `RunError` T670 if a source fails, and T671 if it does not return one finite number for each answer;
        both name the source.
        """
        by_source = {
            name: self._score(place, prompts, answers, columns, where) for place, name in enumerate(self.names)
        }
        weighted = zip(*by_source.values(), strict=True)
        total = [math.fsum(w * r for w, r in zip(self._weights, of_answer, strict=True)) for of_answer in weighted]
        return Rewards(by_source, total)

    def _score(
        self, place: int, prompts: Sequence[Prompt], answers: Sequence[str], columns: Columns, where: Sequence[str]
    ) -> list[float]:
        name, at = self.names[place], (*self._context.at, place)
        try:
            found = self._sources[place].score(prompts, answers, columns)
        except DpoRecipeError:  # a requested stop, or an error that already says where
            raise
        except Exception as error:  # a function of the user raises anything, and a reward model whatever torch does
            if is_lack_of_machine(error):  # answered as for any other part of the run
                raise
            raise _failed(name, at, in_one_line(error)) from error
        return _as_numbers(found, len(answers), name, at, where)


def _load(settings: RewardSettings, context: RewardContext, place: int) -> RewardSource:
    """The source of some settings; errors about it get its place in the recipe."""
    at = (*context.at, place, settings.selector)
    try:
        return registry.load("rewards", settings.kind)(settings, context)
    except RunError as error:
        raise RunError(*(_placed(finding, at) for finding in error.findings)) from error


def _placed(finding: Finding, at: tuple[str | int, ...]) -> Finding:
    """A finding of loading a model, which says `model` for the policy, about a reward model."""
    fix = finding.fix
    if finding.code == "M513":
        fix = "save the reward model as safetensors"
    return replace(finding, what=f"the reward model: {finding.what}", fix=fix, at=at)


def _failed(name: str, at: tuple[str | int, ...], why: str) -> RunError:
    return RunError.of(
        "T670",
        f"the reward source `{name}` failed",
        at=at,
        why=f"{why} (run.log has the traceback)",
        fix="repair it, and run the same command again: it resumes from the last checkpoint",
    )


def _as_numbers(found: Any, count: int, name: str, at: tuple[str | int, ...], where: Sequence[str]) -> list[float]:
    """The rewards as plain numbers. Raises `RunError` T671."""
    try:
        values = list(found)
    except TypeError:
        raise _no_number(name, at, f"it returned {type(found).__name__}, not a list of numbers") from None
    if len(values) != count:
        raise _no_number(name, at, f"it returned {len(values)} values for {count} answers")
    values = [value.item() if hasattr(value, "item") else value for value in values]  # scalars of numpy and torch
    for place, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            row = f", whose row is {where[place]}" if where else ""
            raise _no_number(name, at, f"the reward of answer {place + 1} of {count}{row} is {value!r:.60}")
    return list(map(float, values))


def _no_number(name: str, at: tuple[str | int, ...], why: str) -> RunError:
    return RunError.of(
        "T671",
        f"the reward source `{name}` returned something else than numbers",
        at=at,
        why=why,
        fix="let it return one finite number for each answer; a judgement that is true or false can be 1.0 or 0.0",
    )
