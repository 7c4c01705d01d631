"""A model of an evaluation, without its weights, and what several of them have to do with each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dpo_recipes.data.chat_template import Chat
from dpo_recipes.finished_run import FinishedRun

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Subject:
    """A model to evaluate, without its weights."""

    name: str
    reference: str
    """Where the model is."""
    key: str | None
    """Identifies weights, precision and device; None if they cannot be identified without loading them."""
    tokenizer: Any
    chat: Chat
    context_length: int | None
    """The most tokens that it can read; None if its configuration does not say."""
    device: str
    dtype: str
    load: Callable[[], PreTrainedModel]
    """Loads the weights. Raises `RunError` M504."""
    base: Subject | None = None
    """The model that it was tuned from, with the same tokenizer."""
    beta: float = 1.0
    """The factor of the log-ratio in its implicit rewards: that of its objective, otherwise 1."""
    run: FinishedRun | None = None
    named: str = ""
    """What the person named."""


def with_other_base(subjects: list[Subject], against: str | None) -> list[Subject]:
    """Subjects without a base of their own get the one that they are compared with, if it reads the same tokens."""
    other = next((subject for subject in subjects if subject.named == against), None)
    if other is None:
        return subjects
    same = other.tokenizer.backend_tokenizer.to_str()
    return [
        replace(subject, base=other)
        if subject.base is None and subject is not other and subject.tokenizer.backend_tokenizer.to_str() == same
        else subject
        for subject in subjects
    ]


def with_unique_names(subjects: list[Subject]) -> list[Subject]:
    """Subjects of the same name get the name that the person has used."""
    names = [subject.name for subject in subjects]
    return [
        replace(subject, name=subject.reference) if names.count(subject.name) > 1 else subject for subject in subjects
    ]
