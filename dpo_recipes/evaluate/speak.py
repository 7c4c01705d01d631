"""What is computed with the weights of the models, one model after the other: answers and log-probabilities."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dpo_recipes.errors import RunError
from dpo_recipes.evaluate.generation import Answer, Prompt, Speaker, generate
from dpo_recipes.evaluate.logps import Continuation, sum_logps
from dpo_recipes.evaluate.passes import free_memory
from dpo_recipes.evaluate.rows import ReadRow, UsableRows
from dpo_recipes.evaluate.subject import Subject
from dpo_recipes.events import EventLog
from dpo_recipes.recipe.schema.evaluate import Generate

_SHARE_EVERY_S = 1.0
_PLAIN = {"temperature": 1.0, "top_p": 1.0}
"""The settings of samples from the model's own distribution, which its divergence is estimated on."""


@dataclass
class Spoken:
    """What one model has computed, and its base with the same tokens."""

    answers: list[Answer]
    """To each prompt."""
    logps: np.ndarray
    """[rows, K]: of the answers in the data, in nats; NaN for a row with fewer than K answers."""
    samples: list[Continuation] = field(default_factory=list)
    """Answers to the first prompts, sampled at temperature 1."""
    sample_logps: list[float] = field(default_factory=list)
    base_logps: np.ndarray | None = None
    """[rows, K]; None without a base."""
    base_sample_logps: list[float] = field(default_factory=list)


class _Weights:
    """The weights of one model, loaded when they are first needed."""

    def __init__(self, subject: Subject, events: EventLog) -> None:
        self._subject, self._events = subject, events
        self._model: Any = None

    def __call__(self) -> Any:
        if self._model is None:
            self._events.stage("model", f"loading {self._subject.name}")
            self._model = self._subject.load()
        return self._model


class Interview:
    """Lets the models answer and score. No two of them are in memory at once, and the last one stays until another is
    needed, so that a base that was asked itself is not loaded again to be compared with."""

    def __init__(self, settings: Generate, events: EventLog) -> None:
        self._settings, self._events = settings, events
        self._weights: _Weights | None = None
        self._name = ""

    def close(self) -> None:
        """Free the memory of the last model."""
        self._weights = None
        free_memory()

    def _hold(self, subject: Subject) -> _Weights:
        """The weights of a model, which replace those of the last one."""
        name = _identity(subject)
        if self._weights is None or name != self._name:
            self.close()
            self._weights, self._name = _Weights(subject, self._events), name
        return self._weights

    def sample(self, subject: Subject, prompts: Sequence[Prompt], count: int) -> list[list[Answer]]:
        """`count` answers of a model to each prompt, as lists with one answer to each."""
        weights = self._hold(subject)
        samples = []
        for number in range(count):
            self._events.stage("answer", f"{subject.name}: answer {number + 1} of {count} to each prompt")
            samples.append(self._generate(subject, weights, prompts, self._settings, sample=number))
        return samples

    def ask_all(
        self, subjects: Sequence[Subject], rows: UsableRows, *, kl_prompts: int
    ) -> tuple[list[Spoken], list[str]]:
        """Let all models answer and score, and then their bases score the same. `kl_prompts` is the number of prompts
        for the estimates of their divergence from their bases.

        Returns what each model has computed, and a note for each base that cannot be loaded. Raises `RunError` T684 (a
        log-probability is not a number) and T685 (all answers of a model are empty).
        """
        # Models that others may have as their base come last, because bases are asked after all models.
        order = sorted(range(len(subjects)), key=lambda place: subjects[place].base is None)
        found = {place: self._ask(subjects[place], rows, rows.by_model[place], kl_prompts) for place in order}
        spoken = [found[place] for place in range(len(subjects))]
        return spoken, self._ask_bases(subjects, rows.by_model, spoken)

    def _ask(self, subject: Subject, rows: UsableRows, read: Sequence[ReadRow], kl_prompts: int) -> Spoken:
        """Everything that needs the weights of a model itself. `read` are the rows as it reads them."""
        weights = self._hold(subject)
        prompts = [read[place].prompt for place in rows.first_of_prompt]
        answers = self._generate(subject, weights, prompts, self._settings)
        if not any(answer.text for answer in answers):
            raise _all_empty(subject.name, len(answers))
        spoken = Spoken(answers, self._score(subject, weights, read))
        if subject.base is not None and kl_prompts:
            wanted = prompts[:kl_prompts]
            self._events.stage("sample", f"{subject.name}: {len(wanted)} answers at temperature 1")
            sampled = self._generate(subject, weights, wanted, self._settings.model_copy(update=_PLAIN))
            pairs = zip(wanted, sampled, strict=True)
            spoken.samples = [Continuation(prompt.ids, answer.ids) for prompt, answer in pairs]
            spoken.sample_logps = self._sum(subject, weights, spoken.samples)
        return spoken

    def _ask_bases(
        self, subjects: Sequence[Subject], reads: Sequence[Sequence[ReadRow]], spoken: Sequence[Spoken]
    ) -> list[str]:
        """Add the log-probabilities under each base, which is loaded once for all models that were tuned from it.
        Returns a note for each base that cannot be loaded."""
        notes: list[str] = []
        groups: dict[str, list[int]] = {}
        for place, subject in enumerate(subjects):
            if subject.base is not None:
                groups.setdefault(_identity(subject.base), []).append(place)
        for name in sorted(groups, key=lambda name: name != self._name):
            places = groups[name]
            base = subjects[places[0]].base
            assert base is not None
            try:
                self._ask_base(base, [(reads[place], spoken[place]) for place in places])
            except RunError as error:
                if error.findings[0].code not in ("M504", "M509"):
                    raise
                names = ", ".join(subjects[place].name for place in places)
                notes.append(f"{base.reference}, the base of {names}, cannot be loaded: nothing is compared with it.")
                self._events.note(notes[-1])
        return notes

    def _ask_base(self, base: Subject, tuned: Sequence[tuple[Sequence[ReadRow], Spoken]]) -> None:
        weights = self._hold(base)
        for read, spoken in tuned:
            spoken.base_logps = self._score(base, weights, read)
            spoken.base_sample_logps = self._sum(base, weights, spoken.samples)

    def _generate(
        self, subject: Subject, weights: _Weights, prompts: Sequence[Prompt], settings: Generate, sample: int = 0
    ) -> list[Answer]:
        speaker = Speaker(subject.key, subject.tokenizer, subject.chat.end_ids, weights)
        progress = _Progress(self._events, subject.name, len(prompts))
        return generate(speaker, prompts, settings, sample=sample, on_progress=progress.show)

    def _score(self, subject: Subject, weights: _Weights, read: Sequence[ReadRow]) -> np.ndarray:
        self._events.stage("score", f"{subject.name}: the answers in the data")
        values = iter(self._sum(subject, weights, [answer for row in read for answer in row.answers]))
        logps = np.full((len(read), max(len(row.answers) for row in read)), np.nan)
        for place, row in enumerate(read):
            logps[place, : len(row.answers)] = [next(values) for _ in row.answers]
        return logps

    def _sum(self, subject: Subject, weights: _Weights, continuations: Sequence[Continuation]) -> list[float]:
        pad, size = subject.tokenizer.pad_token_id, self._settings.batch_size
        values = sum_logps(subject.key, weights, pad, continuations, size)
        if not np.isfinite(values).all():
            raise RunError.of(
                "T684",
                f"{subject.name} gives no number for the probability of an answer",
                why=f"its computation in {subject.dtype} gives NaN or infinity: numbers overflow in float16, or "
                "weights are damaged",
                fix="evaluate with `--device cpu`, or check its weights",
            )
        return values


def _identity(subject: Subject) -> str:
    """What two subjects have in common whose weights are the same."""
    return subject.key or f"{subject.reference} {subject.name}"


class _Progress:
    """Reports which share of a model's answers is complete."""

    def __init__(self, events: EventLog, name: str, total: int) -> None:
        self._events, self._name, self._total = events, name, total
        self._began = self._shown_at = time.monotonic()
        self._first: int | None = None

    def show(self, done: int) -> None:
        """Report the number of complete answers, not more often than every second."""
        now = time.monotonic()
        if self._first is None:
            self._first = done
        elif now - self._shown_at >= _SHARE_EVERY_S or done == self._total:
            self._shown_at = now
            eta_s = (now - self._began) / max(1, done - self._first) * (self._total - done)
            share = done / self._total
            self._events.emit("share", name="answer", detail=self._name, done=round(share, 4), eta_s=round(eta_s, 1))


def _all_empty(name: str, count: int) -> RunError:
    return RunError.of(
        "T685",
        f"all {count} answers of {name} are empty",
        why="the model ends each answer at once: its chat template does not fit it, or training has destroyed it",
        fix="choose the template that it was trained with (`--chat-template`), or look at the samples in the report of "
        "its run",
    )
