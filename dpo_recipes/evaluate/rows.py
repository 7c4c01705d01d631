"""The held-out rows of an evaluation, and the tokens that each model reads of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dpo_recipes.artifacts.references import find_recipe, is_address
from dpo_recipes.cache import content_key
from dpo_recipes.data.encode import Encoder
from dpo_recipes.data.fit_length import TokenizedRow, fit
from dpo_recipes.data.prepare import RowSplits, load_rows
from dpo_recipes.data.render import render_prompt, render_row
from dpo_recipes.data.report import SplitReport
from dpo_recipes.data.rows import Message, Row
from dpo_recipes.errors import DataError, RunError
from dpo_recipes.evaluate.generation import Prompt
from dpo_recipes.evaluate.logps import Continuation
from dpo_recipes.evaluate.subject import Subject
from dpo_recipes.objectives import objective_of
from dpo_recipes.objectives.base import RowShape
from dpo_recipes.recipe.paths import looks_local
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.schema.data import Data, Source
from dpo_recipes.recipe.validate import validate
from dpo_recipes.shipped import recipe_paths

_LONGEST = 8192
"""The maximum length of a row of a file, in tokens; those of a recipe have its `data.max_length`."""
_SHAPES: tuple[RowShape, ...] = ("pair", "labelled", "completion", "prompt")

_OF_ANOTHER_SHAPE = ("D402", "D413")
"""Errors of rows that have fewer answers: their columns fit no format of a shape, or a format of another one."""


@dataclass(frozen=True)
class EvaluationData:
    """The rows before any model reads them."""

    rows: list[Row]
    settings: Data
    """The settings for rendering and truncation."""
    description: str
    split: str


def read_rows(
    given: str | None, subjects: Sequence[Subject], split: str, part: slice, keeps: Sequence[str] = ()
) -> EvaluationData:
    """Some rows of a recipe's split or of a file or hub dataset; None stands for the recipe of the first
    run. They keep the values of the columns `keeps`.

    Raises `RecipeError`, `DataError`, and `RunError` T683 (no rows).
    """
    if given is None:
        run = next((subject.run for subject in subjects if subject.run is not None), None)
        if run is None:
            raise RunError.of(
                "T683",
                "there are no rows to evaluate on",
                why="none of the models is a run, whose recipe would say which rows are held out",
                fix="name a recipe or a file with `--data`",
            )
        return rows_of_recipe(run.recipe, split, part, keeps, f"the recipe of {run.run.path}")
    if is_recipe(given):
        validated = validate(find_recipe(given))
        try:
            return rows_of_recipe(validated.recipe, split, part, keeps, given)
        except DataError as error:
            raise error.located(validated.composed.where) from error
    path = str(Path(given).expanduser().resolve()) if looks_local(given) or Path(given).exists() else given
    settings = Data(train=[Source(path=path)], max_length=_LONGEST, overlong="drop")
    return EvaluationData(list(_of_any_shape(settings, keeps)[part]), settings, given, "all")


def is_recipe(given: str) -> bool:
    """Whether `data` names a recipe, and not a file or dataset."""
    return given.endswith((".yaml", ".yml")) or given in recipe_paths() or is_address(given)


def rows_of_recipe(recipe: Recipe, split: str, part: slice, keeps: Sequence[str], description: str) -> EvaluationData:
    """Some rows of a recipe's split. Raises `DataError`, and `RunError` T683 (it holds out none)."""
    if split != "train" and not getattr(recipe.data, split).is_set:
        raise _holds_out_nothing(description, f"it has no `data.{split}`")
    objective = objective_of(recipe)
    splits = load_rows(recipe.data, recipe.training.seed, objective.rows, keeps)
    if split not in splits.rows:
        raise _holds_out_nothing(description, f"`data.{split}` has no rows that can be used")
    rows = list(splits.rows[split][part])
    if objective.rows in ("completion", "prompt"):
        rows = _with_both_answers(rows, recipe, keeps)
    return EvaluationData(rows, recipe.data, description, split)


def _holds_out_nothing(description: str, why: str) -> RunError:
    return RunError.of(
        "T683",
        f"{description} holds out no rows",
        why=why,
        fix="name a recipe or a file with `--data`, or the other held-out rows with `--split`",
    )


def _with_both_answers(rows: list[Row], recipe: Recipe, keeps: Sequence[str]) -> list[Row]:
    """The held-out rows of an objective that learns from one answer or none, with both answers if the data has pairs.

    The pairs are found by the prompts of the rows that the objective holds out, which may be divided otherwise if they
    are divided as pairs.
    """
    try:
        splits = load_rows(recipe.data, recipe.training.seed, "pair", keeps)
    except DataError:  # the data has no pairs, or not enough
        return rows
    prompts = {_prompt_key(row) for row in rows}
    pairs: dict[str, Row] = {}
    for split in splits.rows.values():
        for pair in split:
            if (key := _prompt_key(pair)) in prompts:
                pairs.setdefault(key, pair)
    return [pairs.get(_prompt_key(row), row) for row in rows]


def _prompt_key(row: Row) -> str:
    return content_key(row.prompt, row.tools)


def _of_any_shape(settings: Data, keeps: Sequence[str]) -> Sequence[Row]:
    """All rows of a file, as pairs if it has pairs, or else with the answers that it has."""
    for shape in _SHAPES:
        try:
            splits: RowSplits = load_rows(settings, 0, shape, keeps)
        except DataError as error:
            if error.findings[0].code not in _OF_ANOTHER_SHAPE or shape == _SHAPES[-1]:
                raise
        else:
            return splits.train
    raise AssertionError("the last shape raises or returns")


def answer_text(answer: Sequence[Message]) -> str:
    """What the assistant says in an answer. Of several turns, those of others are left out."""
    return "\n\n".join(message["content"] for message in answer if message["role"] == "assistant").strip()


@dataclass(frozen=True)
class ReadRow:
    """A row as one model reads it."""

    prompt: Prompt
    answers: tuple[Continuation, ...]
    """The prompt may be truncated here, as in training."""


@dataclass(frozen=True)
class UsableRows:
    """The rows that all models can read."""

    rows: list[Row]
    by_model: list[list[ReadRow]]
    """For each model, each of the rows."""
    first_of_prompt: list[int]
    """The indices of the rows that are the first one of their prompt: the prompts that are answered."""
    left_out: dict[str, int]
    """The number of rows that at least one model cannot read, by reason."""

    def reference(self, place: int) -> str | None:
        """The good answer of a row as text; None if the row has none."""
        row = self.rows[place]
        if row.label is False or not row.answers:
            return None
        return answer_text(row.answers[0])


def read_as(data: EvaluationData, subjects: Sequence[Subject], max_new_tokens: int) -> UsableRows:
    """The rows as each model reads them, without those for which the context of one of them is too short.

    Raises `DataError` D420 and D429 if a template cannot render a row, and `RunError` T683 if no row is left.
    """
    left_out: Counter[str] = Counter()
    read = [_read(data, subject, max_new_tokens) for subject in subjects]
    kept = []
    for place in range(len(data.rows)):
        reason = next((found for rows in read if isinstance(found := rows[place], str)), None)
        if reason is None:
            kept.append(place)
        else:
            left_out[reason] += 1
    if not kept:
        raise RunError.of(
            "T683",
            "there are no rows to evaluate on",
            why=f"all {len(data.rows)} rows were left out: {dict(left_out)}",
            fix="lower `--max-new-tokens`, or name other rows with `--data`",
        )
    rows = [data.rows[place] for place in kept]
    by_model = [[one for place in kept if not isinstance(one := of_model[place], str)] for of_model in read]
    names = [one.prompt.name for one in by_model[0]]
    first = sorted({name: place for place, name in reversed(list(enumerate(names)))}.values())
    return UsableRows(rows, by_model, first, dict(left_out))


def read_prompts(data: EvaluationData, subjects: Sequence[Subject], max_new_tokens: int) -> UsableRows:
    """The same without the answers in the data, which then cannot be too long."""
    rows = [replace(row, answers=(), label=None) for row in data.rows]
    return read_as(replace(data, rows=rows), subjects, max_new_tokens)


def _read(data: EvaluationData, subject: Subject, max_new_tokens: int) -> list[ReadRow | str]:
    """Each row as a model reads it, or the reason why it cannot."""
    renderer, settings = subject.chat.renderer, data.settings
    encoder = Encoder(subject.tokenizer, renderer.template.text)
    finds_context = settings.train_on_turns != "all"
    texts = [render_row(row, renderer, finds_context=finds_context) for row in data.rows]
    ends = encoder.first_token_id, encoder.last_token_id
    context = subject.context_length or _LONGEST * 1000
    prompts = [render_prompt(row, renderer) for row in data.rows]
    # A prompt is encoded by itself here, as it is when the model answers.
    prompt_ids = [subject.tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    read: list[ReadRow | str] = []
    for row, ids, encoded in zip(data.rows, prompt_ids, encoder.encode(texts), strict=True):
        report = SplitReport()
        whole = TokenizedRow(encoded.prompt_ids, encoded.answer_ids, encoded.answer_context)
        limit = min(settings.max_length, context)
        fitted = fit(whole, row.where, limit, settings.overlong, report, keep=ends)
        if len(ids) + max_new_tokens > context:
            read.append("the prompt leaves no room for an answer")
        elif fitted is None:
            read.append("longer than the maximum length")
        elif len(fitted.answer_ids) == 2 and fitted.answer_ids[0] == fitted.answer_ids[1]:
            read.append("both answers have the same tokens")
        else:
            name = _prompt_key(row)
            pairs = zip(fitted.answer_ids, fitted.answer_context, strict=True)
            answers = tuple(Continuation(fitted.prompt_ids, list(one), tuple(runs)) for one, runs in pairs)
            read.append(ReadRow(Prompt(name, ids), answers))
    return read
