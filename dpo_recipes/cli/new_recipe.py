"""Writes the text of a new recipe: a template with the parameters of an objective and a learning rate to start from."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dpo_recipes.fit.advice.learning_rates import format_rate
from dpo_recipes.objectives import get_objective
from dpo_recipes.objectives.base import Objective, ObjectiveParams, RowShape
from dpo_recipes.recipe.dump import dump_plain
from dpo_recipes.recipe.load import resolve_scalar
from dpo_recipes.recipe.schema.training import Training

_WIDTH = 100
_PLACEHOLDER = re.compile(r"@(\w+)@")
_EVALUATION = """
evaluation:
  num_samples: 4
  max_new_tokens: 128
"""


@dataclass(frozen=True)
class RowHint:
    """What the rows of an objective look like, for the comments of a new recipe and the question for its data."""

    noun: str
    columns: str
    renamed: str
    """An example of a column map."""
    example: str
    """A dataset on the hub."""


ROW_HINTS: dict[RowShape, RowHint] = {
    "pair": RowHint(
        "Preference pairs",
        "prompt, chosen, rejected",
        "{prompt: question, chosen: better, rejected: worse}",
        "trl-lib/ultrafeedback_binarized",
    ),
    "labelled": RowHint(
        "Answers that are labelled as good or bad",
        "prompt, completion, label (true or false)",
        "{prompt: question, completion: answer, label: is_good}",
        "trl-lib/kto-mix-14k",
    ),
    "completion": RowHint(
        "Answers to imitate",
        "prompt, completion",
        "{prompt: question, completion: answer}",
        "trl-lib/ultrafeedback_binarized",
    ),
    "prompt": RowHint(
        "Prompts, or rows with answers, of which only the prompt is used",
        "prompt",
        "{prompt: question}",
        "trl-lib/ultrafeedback-prompt",
    ),
}


def new_recipe(*, name: str, model: str, data: str, kind: str, full: bool) -> str:
    """The YAML text of a new recipe with comments. `full` is full fine-tuning instead of LoRA."""
    objective = get_objective(kind)
    params: Any = objective.params.model_validate({"kind": kind, **objective.starting_params})
    # A loss that compares the rows of a micro-batch needs more of them.
    micro_batch_size = 4 if objective.couples_batch(params) else 2
    hint = ROW_HINTS[objective.rows]
    values = {
        "name": quoted(name),
        "model": quoted(model),
        "data": quoted(data),
        "adapter": "null  # full fine-tuning" if full else "{kind: lora, r: 16, alpha: 32}",
        "columns": hint.columns,
        "renamed": hint.renamed,
        "objective": "\n".join(_section(objective)) + "\n",
        "micro_batch_size": str(micro_batch_size),
        "gradient_accumulation_steps": str(32 // micro_batch_size),
        "learning_rate": _learning_rate(objective, params, full=full),
        "evaluation": _EVALUATION if objective.head == "causal_lm" else "",
    }
    template = resources.files("dpo_recipes.cli").joinpath("new_recipe.yaml").read_text(encoding="utf-8")
    return _PLACEHOLDER.sub(lambda found: values[found[1]], template).rstrip() + "\n"


def quoted(text: str) -> str:
    """The text as a YAML scalar; quoted where it would read as something else."""
    plain = isinstance(resolve_scalar(text), str) and text[0] != "-" and all(c.isalnum() or c in "/._-=~" for c in text)
    return text if plain else "'" + text.replace("'", "''") + "'"


def _section(objective: Objective) -> Iterator[str]:
    """The lines of the `objective` section: every parameter with its description and its default."""
    params: type[ObjectiveParams] = objective.params
    yield "objective:"
    yield from _comment(params.__doc__ or "")
    yield f"  kind: {objective.kind}"
    for name, field in params.model_fields.items():
        if name != "kind":
            yield from _comment(field.description or "")
            key = field.alias or name
            if name in objective.starting_params:
                yield textwrap.indent(dump_plain({key: objective.starting_params[name]}).rstrip(), "  ")
            else:
                yield _default(key, field)


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()),
        _WIDTH,
        initial_indent="  # ",
        subsequent_indent="  # ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _default(key: str, field: FieldInfo) -> str:
    """A parameter's line; a comment if it has no default, or if it is left out by default."""
    if field.is_required():
        return f"  # {key}: a value is required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        value = value.model_dump(by_alias=True)
    return f"  # {key}:" if value is None else textwrap.indent(dump_plain({key: value}).rstrip(), "  ")


def _learning_rate(objective: Objective, params: Any, *, full: bool) -> str:
    rates = objective.learning_rates(params)
    if rates is None:
        return format_rate(Training().learning_rate)
    usual = rates.full if full else rates.lora
    way = "full fine-tuning" if full else "LoRA"
    return f"{format_rate(usual.start)}  # usual with {way}: {format_rate(usual.low)} to {format_rate(usual.high)}"
