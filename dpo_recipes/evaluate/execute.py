"""Executes an evaluation: lets the models speak, measures, compares, and describes the result."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dpo_recipes.evaluate.measures import (
    Measured,
    measure_divergence,
    measure_likelihoods,
    measure_overlap,
    measure_texts,
)
from dpo_recipes.evaluate.models import ModelFinder, Subject
from dpo_recipes.evaluate.result import EvaluatedModel, EvaluationResult, GenerationSettings, ModelComparison
from dpo_recipes.evaluate.rows import UsableRows, read_as, read_rows
from dpo_recipes.evaluate.speak import Interview, Spoken
from dpo_recipes.evaluate.text_metrics import Overlap
from dpo_recipes.events import EventLog
from dpo_recipes.formats import utc_stamp
from dpo_recipes.hardware import machine
from dpo_recipes.recipe.schema.evaluate import Evaluate
from dpo_recipes.run_dir import write_text_atomically


def execute_evaluation(
    section: Evaluate, answers_file: Path, events: EventLog, *, trust_remote_code: bool
) -> EvaluationResult:
    """Evaluate in this process. The answers are written to a file of JSON lines, one for each prompt.

    What was computed before a kill comes from the cache. Raises `RunError` T640 to T642 and T680 to T685, M codes of
    the models, and what reading the rows raises.
    """
    began = time.time()
    overlap = Overlap(section.bleu_tokenizer) if section.overlap else None  # its absence is found first
    events.stage("models", ", ".join(section.models))
    subjects = ModelFinder(section, trust_remote_code=trust_remote_code).find_all()
    events.stage("data", section.data or "the held-out rows of the first run")
    data = read_rows(section, subjects)
    rows = read_as(data, subjects, section.generate.max_new_tokens)
    for reason, count in rows.left_out.items():
        events.note(f"{count} rows are left out: {reason}")
    interview = Interview(section, events)
    spoken = [interview.ask(subject, rows, read) for subject, read in zip(subjects, rows.by_model, strict=True)]
    notes = interview.ask_bases(subjects, rows.by_model, spoken)
    events.stage("measure", f"{len(rows.first_of_prompt)} answers of each model")
    measured = [
        _measure(rows, place, subject, one, overlap)
        for place, (subject, one) in enumerate(zip(subjects, spoken, strict=True))
    ]
    write_text_atomically(answers_file, "".join(_answer_lines(subjects, rows, spoken)))
    has_bleu = any("bleu" in one.statistics for one in measured)
    return EvaluationResult(
        schema=1,
        data=data.description,
        split=data.split,
        num_prompts=len(rows.first_of_prompt),
        left_out=rows.left_out,
        generation=GenerationSettings(**section.generate.model_dump(exclude={"batch_size"})),
        models=[_describe(subject, one) for subject, one in zip(subjects, measured, strict=True)],
        comparisons=_compare(section, subjects, measured),
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
        one.answers[0].num_tokens if row.label is not False else None for one, row in zip(read, rows.rows, strict=True)
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


def _compare(section: Evaluate, subjects: Sequence[Subject], measured: Sequence[Measured]) -> list[ModelComparison]:
    """Each model against the one of `against`, which is the last by its reference if it is not among the others."""
    if section.against is None:
        return []
    at = next(place for place, subject in enumerate(subjects) if subject.named == section.against)
    return [
        ModelComparison(model=subject.name, against=subjects[at].name, differences=measured[place].minus(measured[at]))
        for place, subject in enumerate(subjects)
        if place != at
    ]


def _notes(subjects: Sequence[Subject]) -> list[str]:
    """What a reader must know about the values."""
    notes = []
    if len({subject.tokenizer.backend_tokenizer.to_str() for subject in subjects}) > 1:
        notes.append("The models have different tokenizers: perplexities and lengths in tokens cannot be compared.")
    return notes


def _answer_lines(subjects: Sequence[Subject], rows: UsableRows, spoken: Sequence[Spoken]) -> list[str]:
    lines = []
    for number, place in enumerate(rows.first_of_prompt):
        row = rows.rows[place]
        answers: dict[str, Any] = {
            subject.name: {"text": one.answers[number].text, "is_cut_off": one.answers[number].is_cut_off}
            for subject, one in zip(subjects, spoken, strict=True)
        }
        line = {"where": row.where, "prompt": row.prompt, "reference": rows.reference(place), "answers": answers}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return lines
