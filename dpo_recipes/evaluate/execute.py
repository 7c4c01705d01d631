"""Executes an evaluation: lets the models speak, measures, compares, and describes the result."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dpo_recipes.evaluate.judges import Judges
from dpo_recipes.evaluate.measures import (
    REWARD,
    Measured,
    measure_divergence,
    measure_likelihoods,
    measure_overlap,
    measure_texts,
)
from dpo_recipes.evaluate.models import ModelFinder
from dpo_recipes.evaluate.result import (
    Estimate,
    EvaluatedModel,
    EvaluationResult,
    GenerationSettings,
    ModelComparison,
)
from dpo_recipes.evaluate.rows import UsableRows, read_as, read_rows
from dpo_recipes.evaluate.speak import Interview, Spoken
from dpo_recipes.evaluate.subject import Subject
from dpo_recipes.evaluate.text_metrics import Overlap
from dpo_recipes.evaluate.win_rate import length_controlled_win_rate, preferences, win_rate
from dpo_recipes.events import EventLog
from dpo_recipes.formats import utc_stamp
from dpo_recipes.hardware import machine
from dpo_recipes.recipe.schema.evaluate import Evaluate
from dpo_recipes.reward_settings import needed_columns, source_names
from dpo_recipes.rewards.base import RewardContext
from dpo_recipes.run_dir import write_text_atomically


def execute_evaluation(
    section: Evaluate,
    answers_file: Path,
    events: EventLog,
    *,
    trust_remote_code: bool,
    reward_functions: Sequence[str] = (),
) -> EvaluationResult:
    """Evaluate in this process. The answers are written to a file of JSON lines, one for each prompt.

    What was computed before a kill comes from the cache. `reward_functions` are the functions that the person allows as
    sources of rewards. Raises `RunError` T640 to T642 and T680 to T685, M codes of the models, what reading the rows
    raises, and what `RewardSources` raises.
    """
    began = time.time()
    overlap = Overlap(section.bleu_tokenizer) if section.overlap else None  # its absence is found first
    events.stage("models", ", ".join(section.models))
    finder = ModelFinder(section.device, section.chat_template, trust_remote_code=trust_remote_code)
    subjects = finder.find_all(section.models, section.against)
    events.stage("data", section.data or "the held-out rows of the first run")
    data = read_rows(section.data, subjects, section.split, slice(section.limit), needed_columns(section.rewards))
    rows = read_as(data, subjects, section.generate.max_new_tokens)
    for reason, count in rows.left_out.items():
        events.note(f"{count} rows are left out: {reason}")
    interview = Interview(section.generate, events)
    spoken, notes = interview.ask_all(subjects, rows, kl_prompts=section.kl_prompts)
    interview.close()
    events.stage("measure", f"{len(rows.first_of_prompt)} answers of each model")
    measured = [
        _measure(rows, place, subject, one, overlap)
        for place, (subject, one) in enumerate(zip(subjects, spoken, strict=True))
    ]
    judges, rewards = None, [dict[str, np.ndarray]() for _ in spoken]
    if section.rewards:
        events.stage("reward", ", ".join(source_names(section.rewards)))
        context = RewardContext(subjects[0].device, frozenset(reward_functions), trust_remote_code, ("rewards",))
        judges = Judges(section.rewards, context, rows)
        rewards = [judges.score([answer.text for answer in one.answers]) for one in spoken]
    for one, of_model in zip(measured, rewards, strict=True):
        one.means |= {f"{REWARD}{name}": values for name, values in of_model.items()}
    write_text_atomically(answers_file, "".join(_answer_lines(subjects, rows, spoken, rewards)))
    has_bleu = any("bleu" in one.statistics for one in measured)
    return EvaluationResult(
        schema=1,
        data=data.description,
        split=data.split,
        num_prompts=len(rows.first_of_prompt),
        left_out=rows.left_out,
        generation=GenerationSettings(**section.generate.model_dump(exclude={"batch_size"})),
        models=[_describe(subject, one) for subject, one in zip(subjects, measured, strict=True)],
        comparisons=_compare(section, subjects, measured, spoken),
        judges=judges.judge_pairs() if judges is not None else [],
        bleu_signature=overlap.signature if overlap is not None and has_bleu else None,
        notes=[*notes, *_notes(subjects)],
        packages=machine.package_versions(),
        finished_at=utc_stamp(time.time()),
        wall_s=round(time.time() - began, 1),
    )


def _measure(rows: UsableRows, place: int, subject: Subject, spoken: Spoken, overlap: Overlap | None) -> Measured:
    measured, answers, read = Measured(), spoken.answers, rows.by_model[place]
    texts = [answer.text for answer in answers]
    measure_texts(measured, texts, [len(one.ids) for one in answers], [one.is_cut_off for one in answers])
    if overlap is not None:
        measure_overlap(measured, overlap, texts, [rows.reference(at) for at in rows.first_of_prompt])
    good = [
        one.answers[0].num_tokens if one.answers and row.label is not False else None
        for one, row in zip(read, rows.rows, strict=True)
    ]
    measure_likelihoods(measured, spoken.logps, spoken.base_logps, subject.beta, good)
    if spoken.base_sample_logps:
        counts = [sample.num_tokens for sample in spoken.samples]
        measure_divergence(measured, spoken.sample_logps, spoken.base_sample_logps, counts)
    return measured


def _describe(subject: Subject, measured: Measured) -> EvaluatedModel:
    return EvaluatedModel(
        name=subject.name,
        reference=subject.reference,
        base=subject.base.name if subject.base else None,
        beta=subject.beta if subject.base else None,
        device=subject.device,
        dtype=subject.dtype,
        metrics=measured.estimates(),
    )


def _compare(
    section: Evaluate, subjects: Sequence[Subject], measured: Sequence[Measured], spoken: Sequence[Spoken]
) -> list[ModelComparison]:
    """Each model against the one of `against`."""
    if section.against is None:
        return []
    at = next(place for place, subject in enumerate(subjects) if subject.named == section.against)
    rates = [_win_rates(measured[place], measured[at], spoken[place], spoken[at]) for place in range(len(subjects))]
    return [
        ModelComparison(
            model=subject.name,
            against=subjects[at].name,
            differences=measured[place].minus(measured[at]),
            win_rates=rates[place][0],
            length_controlled_win_rates=rates[place][1],
        )
        for place, subject in enumerate(subjects)
        if place != at
    ]


def _win_rates(
    own: Measured, other: Measured, spoken: Spoken, others: Spoken
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """The win-rates by source of rewards, and those at equal length, which is measured in characters."""
    lengths, other_lengths = ([len(answer.text) for answer in one.answers] for one in (spoken, others))
    plain: dict[str, Estimate] = {}
    controlled: dict[str, Estimate] = {}
    for key, values in own.means.items():
        if key.startswith(REWARD):
            preferred = preferences(values, other.means[key])
            for table, estimate in (
                (plain, win_rate(preferred)),
                (controlled, length_controlled_win_rate(preferred, lengths, other_lengths)),
            ):
                if estimate is not None:
                    table[key.removeprefix(REWARD)] = estimate
    return plain, controlled


def _notes(subjects: Sequence[Subject]) -> list[str]:
    """What a reader must know about the values."""
    notes = []
    if len({subject.tokenizer.backend_tokenizer.to_str() for subject in subjects}) > 1:
        notes.append("The models have different tokenizers: perplexities and lengths in tokens cannot be compared.")
    return notes


def _answer_lines(
    subjects: Sequence[Subject],
    rows: UsableRows,
    spoken: Sequence[Spoken],
    rewards: Sequence[Mapping[str, np.ndarray]],
) -> list[str]:
    lines = []
    for number, place in enumerate(rows.first_of_prompt):
        row = rows.rows[place]
        answers: dict[str, Any] = {}
        for subject, one, of_model in zip(subjects, spoken, rewards, strict=True):
            answer = one.answers[number]
            answers[subject.name] = {"text": answer.text, "is_cut_off": answer.is_cut_off}
            if of_model:
                scores = {name: float(values[number]) for name, values in of_model.items()}
                answers[subject.name]["rewards"] = scores
        line = {"where": row.where, "prompt": row.prompt, "reference": rows.reference(place), "answers": answers}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return lines
