"""Samples answers to prompts, ranks them by their rewards, and writes them as preference data."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dpo_recipes.data.rows import Row
from dpo_recipes.errors import RunError
from dpo_recipes.evaluate.generation import Answer
from dpo_recipes.evaluate.intervals import mean_estimate, share_estimate
from dpo_recipes.evaluate.judges import Judges
from dpo_recipes.evaluate.models import ModelFinder
from dpo_recipes.evaluate.result import (
    Estimate,
    GenerationSettings,
    RankedAnswers,
    SampledModel,
    SampleResult,
)
from dpo_recipes.evaluate.rows import read_prompts, read_rows
from dpo_recipes.evaluate.speak import Interview
from dpo_recipes.evaluate.subject import Subject
from dpo_recipes.events import EventLog
from dpo_recipes.formats import utc_stamp
from dpo_recipes.hardware import machine
from dpo_recipes.recipe.schema.sample import Sample
from dpo_recipes.reward_settings import needed_columns, source_names
from dpo_recipes.rewards.base import RewardContext
from dpo_recipes.run_dir import write_text_atomically


@dataclass(frozen=True)
class _Scored:
    """An answer with its rewards."""

    model: str
    answer: Answer
    rewards: dict[str, float]
    """By source, and their weighted sum as the last one."""

    @property
    def total(self) -> float:
        return list(self.rewards.values())[-1]


def execute_sampling(
    section: Sample,
    rows_file: Path,
    answers_file: Path,
    events: EventLog,
    *,
    trust_remote_code: bool,
    reward_functions: Sequence[str] = (),
) -> SampleResult:
    """Sample in this process, and write the rows and all answers to two files of JSON lines.

    Answers that were generated before a kill come from the cache. Raises what `execute_evaluation` raises for models,
    rows and rewards, and `RunError` T686 if no row is left.
    """
    began = time.time()
    events.stage("models", ", ".join(section.models))
    finder = ModelFinder(section.device, section.chat_template, trust_remote_code=trust_remote_code)
    subjects = finder.find_all(section.models)
    events.stage("data", section.data)
    data = read_rows(section.data, subjects, section.split, section.rows, needed_columns(section.rewards))
    if not data.rows:
        raise _no_rows(section)
    rows = read_prompts(data, subjects, section.generate.max_new_tokens)
    interview = Interview(section.generation, events)
    answered = [
        interview.sample(subject, [read[at].prompt for at in rows.first_of_prompt], section.answers)
        for subject, read in zip(subjects, rows.by_model, strict=True)
    ]
    interview.close()
    events.stage("reward", ", ".join(source_names(section.rewards)))
    context = RewardContext(subjects[0].device, frozenset(reward_functions), trust_remote_code, ("rewards",))
    judges = Judges(section.rewards, context, rows)
    scored = [
        [_score(subject, judges, answers) for answers in of_model]
        for subject, of_model in zip(subjects, answered, strict=True)
    ]
    prompts = [rows.rows[place] for place in rows.first_of_prompt]
    ranker = _Ranker(section)
    ranked = [
        ranker.rank([answers[number] for of_model in scored for answers in of_model]) for number in range(len(prompts))
    ]
    dropped = Counter(one.reason for one in ranked if one.row is None)
    kept = [one for one in ranked if one.row is not None]
    if not kept:
        raise _nothing_left(dropped)
    _write_lines(
        rows_file,
        (
            {"prompt": row.prompt, **one.row, "where": row.where}
            for row, one in zip(prompts, ranked, strict=True)
            if one.row
        ),
    )
    _write_lines(answers_file, (_line(row, one) for row, one in zip(prompts, ranked, strict=True)))
    best, worst = _describe_ends(kept)
    return SampleResult(
        schema=1,
        data=data.description,
        split=data.split,
        num_prompts=len(prompts),
        num_rows=len(kept),
        left_out={**rows.left_out, **dropped},
        models=[_describe(subject, of_model) for subject, of_model in zip(subjects, scored, strict=True)],
        num_answers=sum(len(one.answers) for one in ranked),
        generation=GenerationSettings(**section.generation.model_dump(exclude={"batch_size"})),
        best=best,
        worst=worst,
        packages=machine.package_versions(),
        finished_at=utc_stamp(time.time()),
        wall_s=round(time.time() - began, 1),
    )


def _write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    write_text_atomically(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _line(row: Row, ranked: _Ranked) -> dict[str, Any]:
    """All answers to a prompt, for the page and for people who look for what was left out."""
    places = {id(one): place + 1 for place, one in enumerate(ranked.usable)}
    answers = [
        {
            "model": one.model,
            "text": one.answer.text,
            "tokens": len(one.answer.ids),
            "rewards": one.rewards,
            "rank": places.get(id(one)),
            "flaw": flaw,
        }
        for one, flaw in zip(ranked.answers, ranked.flaws, strict=True)
    ]
    return {"prompt": row.prompt, "where": row.where, "left_out": ranked.reason or None, "answers": answers}


def _score(subject: Subject, judges: Judges, answers: Sequence[Answer]) -> list[_Scored]:
    """One answer to each prompt with its rewards."""
    by_source = judges.score([answer.text for answer in answers])
    return [
        _Scored(subject.name, answer, {name: float(values[place]) for name, values in by_source.items()})
        for place, answer in enumerate(answers)
    ]


@dataclass(frozen=True)
class _Ranked:
    """The answers to one prompt, and what was made of them."""

    answers: Sequence[_Scored]
    flaws: list[str | None]
    """Why an answer cannot be used; None if it can."""
    usable: list[_Scored]
    """From the best to the worst."""
    row: dict[str, Any] | None
    """The row without its prompt, if there is one."""
    reason: str
    """Why there is no row; empty if there is one."""


class _Ranker:
    """Makes a row from the answers to one prompt."""

    def __init__(self, section: Sample) -> None:
        self._section = section

    def rank(self, answers: Sequence[_Scored]) -> _Ranked:
        """The answers in their order, and the row."""
        flaws = list(self._flaws(answers))
        usable = [one for one, flaw in zip(answers, flaws, strict=True) if flaw is None]
        usable.sort(key=lambda one: -one.total)
        if len(usable) < 2:
            return _Ranked(answers, flaws, usable, None, "fewer than two different whole answers")
        if usable[0].total - usable[-1].total <= self._section.min_difference:
            return _Ranked(answers, flaws, usable, None, "the best and the worst answer tie")
        row = self._pair(usable) if self._section.keep == "best_worst" else self._ranked(usable)
        return _Ranked(answers, flaws, usable, row, "")

    def _flaws(self, answers: Sequence[_Scored]) -> Iterator[str | None]:
        """What is wrong with each answer. An answer with NUL is not used, because no row may have it."""
        seen: set[str] = set()
        for one in answers:
            text = one.answer.text
            if not text:
                yield "empty"
            elif one.answer.is_cut_off and self._section.cut_off == "drop":
                yield "cut off"
            elif text in seen:
                yield "equal to another one"
            elif "\0" in text:
                yield "with a NUL character"
            else:
                seen.add(text)
                yield None

    def _pair(self, ranked: Sequence[_Scored]) -> dict[str, Any]:
        best, worst = ranked[0], ranked[-1]
        row: dict[str, Any] = {}
        for name, one in (("chosen", best), ("rejected", worst)):
            row[name] = [{"role": "assistant", "content": one.answer.text}]
        for name, one in (("chosen", best), ("rejected", worst)):
            row |= {f"score_{name}": one.total, f"model_{name}": one.model, f"rewards_{name}": one.rewards}
        return row

    def _ranked(self, ranked: Sequence[_Scored]) -> dict[str, Any]:
        """All answers. Those that tie with the best one share its rank, and make no pair with it."""
        best = ranked[0].total
        answers = []
        for place, one in enumerate(ranked):
            rank = 1 if best - one.total <= self._section.min_difference else place + 1
            facts = {"rank": rank, "score": one.total, "model": one.model, "rewards": one.rewards}
            answers.append({"answer": one.answer.text, **facts})
        return {"answers": answers}


def _describe(subject: Subject, samples: Sequence[Sequence[_Scored]]) -> SampledModel:
    """All answers of a model: means over prompts of the mean over its answers."""
    rewards = {name: [[one.rewards[name] for one in sample] for sample in samples] for name in samples[0][0].rewards}
    tokens = [[len(one.answer.ids) for one in sample] for sample in samples]
    cut_off = float(np.mean([one.answer.is_cut_off for sample in samples for one in sample]))
    return SampledModel(
        name=subject.name,
        reference=subject.reference,
        rewards=_means({name: np.mean(values, axis=0) for name, values in rewards.items()}),
        cut_off=cut_off,
        tokens=mean_estimate(np.mean(tokens, axis=0)),
    )


def _describe_ends(kept: Sequence[_Ranked]) -> tuple[RankedAnswers, RankedAnswers]:
    """The best and the worst answers of the rows."""
    ends = [[one.usable[place] for one in kept] for place in (0, -1)]
    lengths = [np.array([len(one.answer.ids) for one in answers]) for answers in ends]
    best, worst = (
        RankedAnswers(
            rewards=_means({name: np.array([one.rewards[name] for one in answers]) for name in answers[0].rewards}),
            tokens=mean_estimate(tokens),
            longer=share_estimate(tokens > others),
        )
        for answers, tokens, others in zip(ends, lengths, lengths[::-1], strict=True)
    )
    return best, worst


def _means(values: Mapping[str, np.ndarray]) -> dict[str, Estimate]:
    estimates = {name: mean_estimate(found) for name, found in values.items()}
    return {name: estimate for name, estimate in estimates.items() if estimate is not None}


def _no_rows(section: Sample) -> RunError:
    first = section.rows.start or 0
    return RunError.of(
        "T683",
        f"{section.data} has no rows for round {section.round}",
        why=f"with `prompts: next`, its first row is number {first + 1}, and there are fewer",
        fix="lower `limit`, use other data, or write `prompts: same`",
    )


def _nothing_left(dropped: Counter[str]) -> RunError:
    most, count = dropped.most_common(1)[0]
    fix = (
        "raise `generate.max_new_tokens` or `generate.temperature`, or write `cut_off: keep`"
        if "fewer" in most
        else "lower `min_difference`, sample more `answers`, or use a source of rewards that tells them apart"
    )
    return RunError.of(
        "T686",
        "no prompt has answers that can be ranked",
        why=f"of {sum(dropped.values())} prompts, {count} are left out because of this: {most}",
        fix=fix,
    )
