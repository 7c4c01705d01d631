"""Samples answers to prompts, ranks them by their rewards, and writes them as preference data."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dpo_recipes.errors import RunError
from dpo_recipes.evaluate.generation import Answer
from dpo_recipes.evaluate.intervals import mean_estimate
from dpo_recipes.evaluate.judges import Judges
from dpo_recipes.evaluate.models import ModelFinder, Subject
from dpo_recipes.evaluate.result import Estimate, SampledModel, SampleResult
from dpo_recipes.evaluate.rows import read_prompts, read_rows
from dpo_recipes.evaluate.speak import Interview
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
    events: EventLog,
    *,
    trust_remote_code: bool,
    reward_functions: Sequence[str] = (),
) -> SampleResult:
    """Sample in this process, and write the rows to a file of JSON lines.

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
    ranker, dropped = _Ranker(section), Counter[str]()
    lines = []
    for number, place in enumerate(rows.first_of_prompt):
        row, reason = ranker.rank([answers[number] for of_model in scored for answers in of_model])
        if row is None:
            dropped[reason] += 1
        else:
            lines.append({"prompt": rows.rows[place].prompt, **row, "where": rows.rows[place].where})
    if not lines:
        raise _nothing_left(dropped)
    write_text_atomically(rows_file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return SampleResult(
        schema=1,
        data=data.description,
        split=data.split,
        num_prompts=len(rows.first_of_prompt),
        num_rows=len(lines),
        left_out={**rows.left_out, **dropped},
        models=[_describe(subject, of_model) for subject, of_model in zip(subjects, scored, strict=True)],
        packages=machine.package_versions(),
        finished_at=utc_stamp(time.time()),
        wall_s=round(time.time() - began, 1),
    )


def _score(subject: Subject, judges: Judges, answers: Sequence[Answer]) -> list[_Scored]:
    """One answer to each prompt with its rewards."""
    by_source = judges.score([answer.text for answer in answers])
    return [
        _Scored(subject.name, answer, {name: float(values[place]) for name, values in by_source.items()})
        for place, answer in enumerate(answers)
    ]


class _Ranker:
    """Makes a row from the answers to one prompt."""

    def __init__(self, section: Sample) -> None:
        self._section = section

    def rank(self, answers: Sequence[_Scored]) -> tuple[dict[str, Any] | None, str]:
        """The row without its prompt, or None and the reason why there is none."""
        usable = list(self._usable(answers))
        if len(usable) < 2:
            return None, "fewer than two different whole answers"
        usable.sort(key=lambda one: -one.total)
        if usable[0].total - usable[-1].total <= self._section.min_difference:
            return None, "the best and the worst answer tie"
        return (self._pair(usable) if self._section.keep == "best_worst" else self._ranked(usable)), ""

    def _usable(self, answers: Sequence[_Scored]) -> Iterator[_Scored]:
        """Different answers that are not empty, have no NUL, which no row may have, and, unless they are kept, are not
        cut off."""
        seen: set[str] = set()
        for one in answers:
            is_whole = self._section.cut_off == "keep" or not one.answer.is_cut_off
            text = one.answer.text
            if text and is_whole and text not in seen and "\0" not in text:
                seen.add(text)
                yield one

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
    """The rewards of all answers of a model: means over prompts of the mean over its answers."""
    rewards: dict[str, Estimate] = {}
    for name in samples[0][0].rewards:
        values = np.array([[one.rewards[name] for one in sample] for sample in samples]).mean(axis=0)
        estimate = mean_estimate(values)
        if estimate is not None:
            rewards[name] = estimate
    cut_off = float(np.mean([one.answer.is_cut_off for sample in samples for one in sample]))
    return SampledModel(name=subject.name, reference=subject.reference, rewards=rewards, cut_off=cut_off)


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
