"""Renders an evaluation as one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dpo_recipes.evaluate.result import EvaluationResult, GenerationSettings
from dpo_recipes.formats import format_count, format_number
from dpo_recipes.report.evaluation_tables import INTERVALS_NOTE, list_evaluation_tables, list_verdicts
from dpo_recipes.report.templates import load_templates
from dpo_recipes.run_dir import read_json_lines

_SHOWN = 20
"""The number of prompts whose answers the page shows; the file has all of them."""


def render_evaluation(result: EvaluationResult, answers_file: Path) -> str:
    """The page of an evaluation as the text of one HTML file. The answers are read from the file beside it."""
    answers = read_json_lines(answers_file)
    names = [model.name for model in result.models]
    template = load_templates().get_template("evaluation.html.jinja")
    page = template.render(
        title=" and ".join(names) if len(names) < 3 else f"{len(names)} models",
        description=describe_evaluation(result),
        verdicts=list_verdicts(result),
        notes=[*result.notes, INTERVALS_NOTE],
        tables=list_evaluation_tables(result),
        samples=[_sample(line, names) for line in answers[:_SHOWN]],
        num_answers=format_count(len(answers)),
        answers_file=answers_file.name,
        models=result.models,
        bleu_signature=result.bleu_signature,
        packages=result.packages,
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate in an answer


def describe_evaluation(result: EvaluationResult) -> str:
    """The prompts, and how they were answered, in one sentence."""
    prompts = f"{format_count(result.num_prompts)} prompt{'s' * (result.num_prompts != 1)}"
    rows = "all rows" if result.split == "all" else f"`{result.split}` rows"
    return f"{prompts} of {result.data} ({rows}), answered {describe_generation(result.generation)}"


def describe_generation(settings: GenerationSettings) -> str:
    """How answers were generated."""
    how = "greedily"
    if settings.temperature:
        top_p = f", top-p {format_number(settings.top_p, 2)}" if settings.top_p < 1 else ""
        how = f"at temperature {format_number(settings.temperature, 2)}{top_p}, seed {settings.seed}"
    return f"{how} with up to {settings.max_new_tokens} tokens"


def prompt_text(line: dict[str, Any]) -> str:
    """The prompt of a line of answers, with the roles if there are several messages."""
    texts = [message["content"] for message in line["prompt"]]
    if len(texts) == 1:
        return texts[0]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in line["prompt"])


def _sample(line: dict[str, Any], names: list[str]) -> dict[str, Any]:
    answers = [(name, text, len(text.split())) for name in names for text in [line["answers"][name]["text"]]]
    return {"prompt": prompt_text(line), "answers": answers, "reference": line["reference"]}
