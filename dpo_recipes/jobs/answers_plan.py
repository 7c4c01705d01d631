"""Plans a step in which models answer: finds out what the models will be made from, and what they will read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dpo_recipes.data.chat_template import apply_template
from dpo_recipes.evaluate.models import Subject, no_base
from dpo_recipes.evaluate.rows import EvaluationData, is_recipe, read_as, read_prompts, read_rows, rows_of_recipe
from dpo_recipes.finished_run import open_run
from dpo_recipes.fit.planner.answers import AnsweringModel, AnswersPlan, Asked, Planned, TextLengths, plan_answers
from dpo_recipes.fit.planner.disk import stored_bytes
from dpo_recipes.fit.planner.reward_models import plan_reward_models, recipe_of_model
from dpo_recipes.fit.planner.target import Target, find_target
from dpo_recipes.fit.planner.workload import assume_workload
from dpo_recipes.jobs.plan import PlanOptions
from dpo_recipes.model.sources import resolve_model
from dpo_recipes.model.tokenizer import load_tokenizer
from dpo_recipes.recipe.references import find_references
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.recipe.schema.evaluate import BASE, Evaluate
from dpo_recipes.recipe.schema.sample import Sample
from dpo_recipes.recipe.validate import validate
from dpo_recipes.reward_settings import needed_columns
from dpo_recipes.run_dir import MODEL_FOLDER, RunDirectory
from dpo_recipes.shipped import find_recipe


@dataclass(frozen=True)
class Unread:
    """Data that another step will make: as much as is known before."""

    num_rows: int | None
    prompt_tokens: int
    answer_tokens: int


UNKNOWN = Unread(None, 512, 512)
"""A file that is not read: rows of the default of `data.max_length`."""


@dataclass(frozen=True)
class _Model:
    """A model that answers, as the recipe that trains it or one that only names it."""

    name: str
    recipe: Recipe
    is_tuned: bool
    """Whether the recipe trains it, so that it has a base."""


def plan_section(
    section: Evaluate | Sample,
    options: PlanOptions,
    recipes: Mapping[str, Recipe] | None = None,
    data: Unread | None = None,
) -> tuple[AnswersPlan, dict[str, int | None]]:
    """The plan of an evaluation or a sampling, and the sizes of the models that it reads from elsewhere.

    `recipes` are those of models that do not exist yet, by the text that stands for them, and `data` describes rows
    that do not exist yet. Raises what reading configurations, tokenizers and rows raises.
    """
    against = section.against if isinstance(section, Evaluate) else None
    models = _find_models([*section.models, *([against] if against else [])], recipes or {}, section.chat_template)
    target = _target(section, models, recipes or {})
    options.on_stage("plan", f"{', '.join(model.name for model in models)} on {target.device.name}")
    made = {model.name: _answering(model, target, options) for model in models}
    lengths, num_prompts, is_read = _read(section, models, made, options, data)
    other = made.get(against) if against else None
    planned = [
        Planned(
            made[model.name], of_model, _base_of(model, target, options) or (other if model.name != against else None)
        )
        for model, of_model in zip(models, lengths, strict=True)
    ]
    dtype = next(iter(made.values())).dtype
    rewards = plan_reward_models(section.rewards, target.device.kind, dtype, options.reward_recipes)
    found = [model.recipe for model in models if model.name not in (recipes or {})]
    found += [reward.recipe for reward in rewards if reward.source.model not in options.reward_recipes]
    bases = {recipe.model.path: stored_bytes(resolve_model(recipe.model)) for recipe in found}
    return plan_answers(planned, _asked(section), rewards, target, num_prompts=num_prompts, is_read=is_read), bases


def _asked(section: Evaluate | Sample) -> Asked:
    if isinstance(section, Sample):
        return Asked(section.generate, num_answers=section.answers)
    return Asked(section.generate, scores_texts=True, kl_prompts=section.kl_prompts, resamples=True)


def _find_models(names: Sequence[str], recipes: Mapping[str, Recipe], chat_template: str | None) -> list[_Model]:
    """The models in their order, each once. Raises `RunError` T640 to T642 for a run, and T681."""
    found = {name: _find(name, recipes, chat_template) for name in names if name != BASE}
    if BASE in names:
        tuned = next((model for model in found.values() if model.is_tuned), None)
        if tuned is None:
            raise no_base()
        found[BASE] = _Model(BASE, without_adapter(tuned.recipe), is_tuned=False)
    return [found[name] for name in dict.fromkeys(names)]


def _find(name: str, recipes: Mapping[str, Recipe], chat_template: str | None) -> _Model:
    if name in recipes:
        return _Model(name, recipes[name], is_tuned=True)
    path = Path(name)
    for folder in (path, path.parent) if path.name == MODEL_FOLDER else (path,):
        if RunDirectory(folder).resolved_recipe.is_file():
            return _Model(name, open_run(folder).recipe, is_tuned=True)
    base = _base_of_adapter(path)
    recipe = recipe_of_model(base or name)
    template = {"chat_template": chat_template} if chat_template else {}
    return _Model(name, recipe.model_copy(update=template), is_tuned=base is not None)


def _base_of_adapter(folder: Path) -> str | None:
    """The base that an adapter in a folder names; None if there is no adapter. Its own size is left out."""
    try:
        return json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError):
        return None


def without_adapter(recipe: Recipe) -> Recipe:
    """The recipe of the base of a recipe's model."""
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"adapter": None})})


def _target(section: Evaluate | Sample, models: Sequence[_Model], recipes: Mapping[str, Recipe]) -> Target:
    """The device that models which do not exist yet are meant for, else the one of this machine."""
    meant_for = next((model.recipe.hardware.profile for model in models if model.name in recipes), None)
    hardware = models[0].recipe.hardware.model_copy(update={"device": section.device, "profile": meant_for})
    return find_target(models[0].recipe.model_copy(update={"hardware": hardware}))


def _answering(model: _Model, target: Target, options: PlanOptions) -> AnsweringModel:
    return AnsweringModel(model.name, model.recipe, target, trust_remote_code=options.trust_remote_code)


def _base_of(model: _Model, target: Target, options: PlanOptions) -> AnsweringModel | None:
    if not model.is_tuned:
        return None
    return _answering(
        _Model(f"the base of {model.name}", without_adapter(model.recipe), is_tuned=False), target, options
    )


def _read(
    section: Evaluate | Sample,
    models: Sequence[_Model],
    made: Mapping[str, AnsweringModel],
    options: PlanOptions,
    data: Unread | None,
) -> tuple[list[TextLengths], int | None, bool]:
    """What each model reads, the number of prompts if it is known, and whether the rows were read."""
    rows = None if data is not None else _rows(section, models, options)
    if rows is None:
        unread = data or assume_rows(section, [model.recipe for model in models if model.is_tuned])
        return _assumed(section, unread, len(models))
    options.on_stage("tokenize", f"{len(rows.rows)} rows for {len(models)} models")
    subjects = [_subject(model, made[model.name], options) for model in models]
    read = read_prompts if isinstance(section, Sample) else read_as
    usable = read(rows, subjects, section.generate.max_new_tokens)
    lengths = []
    for of_model in usable.by_model:
        prompts = np.array([len(of_model[place].prompt.ids) for place in usable.first_of_prompt])
        texts = [(len(one.prompt_ids), len(one.answer_ids)) for row in of_model for one in row.answers]
        lengths.append(TextLengths(prompts, np.array(texts, int).reshape(-1, 2)))
    return lengths, len(usable.first_of_prompt), True


def _assumed(section: Evaluate | Sample, unread: Unread, num_models: int) -> tuple[list[TextLengths], int | None, bool]:
    limits = [count for count in (unread.num_rows, section.limit) if count is not None]
    count = min(limits) if limits else None
    rows = count or section.generate.batch_size
    prompts = np.full(rows, unread.prompt_tokens)
    texts = np.tile([unread.prompt_tokens, unread.answer_tokens], (2 * rows if isinstance(section, Evaluate) else 0, 1))
    return [TextLengths(prompts, texts)] * num_models, count, False


def assume_rows(section: Evaluate | Sample, tuned: Sequence[Recipe]) -> Unread:
    """The rows that a section names, without reading them: half of each is its prompt. `tuned` are the recipes of the
    models that have one."""
    recipe = _recipe_of_data(section, tuned)
    if recipe is None:
        return UNKNOWN
    half = recipe.data.max_length // 2
    return Unread(assume_workload(recipe).num_rows.get(section.split), recipe.data.max_length - half, half)


def _recipe_of_data(section: Evaluate | Sample, tuned: Sequence[Recipe]) -> Recipe | None:
    """The recipe whose rows a section names; None for a file or dataset."""
    if section.data is None:
        return tuned[0] if tuned else None
    return validate(find_recipe(section.data)).recipe if is_recipe(section.data) else None


def _rows(section: Evaluate | Sample, models: Sequence[_Model], options: PlanOptions) -> EvaluationData | None:
    """The rows; None if they must not be read, or do not exist yet."""
    recipe = _recipe_of_data(section, [model.recipe for model in models if model.is_tuned])
    if recipe is not None:
        given: list[str] = [source.path for source in recipe.data.train]
        if any(find_references(recipe.data.model_dump())):
            return None
    else:
        given = [section.data or ""]
    are_local = all(Path(path).is_absolute() for path in given)
    if options.read_data is False or (options.read_data is None and not are_local):
        return None
    options.on_stage("data", section.data or "the held-out rows of the first run")
    columns = needed_columns(section.rewards)
    part = section.rows if isinstance(section, Sample) else slice(section.limit)
    if recipe is not None:
        return rows_of_recipe(recipe, section.split, part, columns, section.data or "the recipe of the first run")
    return read_rows(section.data, [], section.split, part, columns)


def _subject(model: _Model, made: AnsweringModel, options: PlanOptions) -> Subject:
    """A model as the evaluation knows it, which cannot be loaded."""
    recipe = model.recipe
    location, trust = resolve_model(recipe.model), options.trust_remote_code and recipe.model.trust_remote_code
    tokenizer = load_tokenizer(location, trust_remote_code=trust)
    chat = apply_template(tokenizer, recipe.chat_template, recipe.model.add_special_tokens, recipe.chat_template_kwargs)
    context = getattr(made.config.get_text_config(), "max_position_embeddings", None)
    return Subject(model.name, model.name, None, tokenizer, chat, context, "cpu", made.dtype, _never)


def _never() -> Any:
    raise AssertionError("a plan loads no weights")
