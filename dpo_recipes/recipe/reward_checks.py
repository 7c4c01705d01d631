"""Checks of a list of reward sources against the files that it names, before anything is loaded."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dpo_recipes.errors import DpoRecipeError, Finding, RecipeError, Where
from dpo_recipes.objectives import objective_of
from dpo_recipes.recipe.compose import Composed
from dpo_recipes.recipe.dump import read_resolved
from dpo_recipes.recipe.load import DataPath
from dpo_recipes.recipe.paths import exists, is_hub_id, looks_local, near_file, relative_note
from dpo_recipes.recipe.references import is_reference
from dpo_recipes.reward_settings import (
    ExactReward,
    FunctionReward,
    LengthReward,
    ModelReward,
    RegexReward,
    RewardSettings,
)
from dpo_recipes.run_dir import RunDirectory


def check_reward_sources(sources: Sequence[RewardSettings], at: DataPath, composed: Composed) -> Iterator[Finding]:
    """R384, R385, R387 and R388 for the sources of a list at a path of the recipe. A reward model that a step of a
    chain is to make does not exist yet."""
    for place, source in enumerate(sources):
        here = (*at, place)
        if isinstance(source, ModelReward) and is_reference(source.model):
            continue
        if isinstance(source, ModelReward):
            yield from _check_model(source, (*here, "model"), composed)
        elif isinstance(source, FunctionReward):
            yield from _check_function(source, (*here, "function"), composed)
        elif isinstance(source, RegexReward):
            yield from _check_pattern(source.pattern, composed.where((*here, "pattern")))
        elif isinstance(source, ExactReward) and source.extract is not None:
            yield from _check_pattern(source.extract, composed.where((*here, "extract")))
        elif isinstance(source, LengthReward):
            yield from _check_bounds(source, here, composed)


def _check_model(source: ModelReward, at: DataPath, composed: Composed) -> Iterator[Finding]:
    path, where = Path(source.model), composed.where(at)
    if not (looks_local(source.model) or path.is_absolute()):
        if not is_hub_id(source.model):
            what = f"`{source.model}` is neither a path nor a hub id"
            yield Finding("R384", what, where, "a hub id is `name` or `owner/name`", "correct it")
        return
    if not exists(path):
        note = relative_note(composed, at)
        yield Finding("R384", f"the reward model {path} does not exist", where, note, near_file(path))
    elif RunDirectory(path).resolved_recipe.is_file():
        yield from _check_run(path, where)
    elif (path / "adapter_config.json").is_file():
        yield Finding(
            "R384",
            f"{path} contains an adapter without its base",
            where,
            "it has an adapter_config.json",
            "give the directory of the run that trained it, or merge it into its base (`save_as: merged`)",
        )
    elif not (path / "config.json").is_file():
        what = f"{path} contains no reward model"
        why = "it has neither the resolved.yaml of a run nor the config.json of a model"
        yield Finding("R384", what, where, why, "give the directory of a run, or the folder of a model")
    else:
        yield from _check_config(path, where)


def _check_run(path: Path, where: Where) -> Iterator[Finding]:
    run = RunDirectory(path)
    try:
        objective = objective_of(read_resolved(run.resolved_recipe))
    except DpoRecipeError:
        return  # the run itself says what is wrong when it is opened
    if objective.head != "score":
        yield _no_reward_model(path, where, f"its run trained `kind: {objective.kind}`, whose model predicts tokens")
    elif not run.result.is_file():
        yield Finding(
            "R384",
            f"the run in {path} is unfinished",
            where,
            "it has no result.json",
            "run its recipe again: it resumes from the last checkpoint",
        )


def _check_config(path: Path, where: Where) -> Iterator[Finding]:
    try:
        config: Any = json.loads((path / "config.json").read_text(encoding="utf-8"))
        architectures = [str(name) for name in config.get("architectures") or []]
    except (OSError, ValueError, AttributeError, TypeError):
        return  # transformers says what is wrong when it is loaded
    if not any(name.endswith("ForSequenceClassification") for name in architectures):
        named = ", ".join(architectures) or "no architecture"
        yield _no_reward_model(path, where, f"its config.json names {named}")


def _no_reward_model(path: Path, where: Where, why: str) -> Finding:
    return Finding(
        "R385",
        f"{path} is not a reward model",
        where,
        f"a reward model returns one number for a text; {why}",
        "train one with `objective: {kind: reward}` and give its run directory",
    )


def _check_function(source: FunctionReward, at: DataPath, composed: Composed) -> Iterator[Finding]:
    path, where = Path(source.file), composed.where(at)
    if not exists(path):
        yield Finding("R387", f"the file {path} does not exist", where, relative_note(composed, at), near_file(path))
        return
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (OSError, SyntaxError, ValueError) as error:
        what = f"{path} cannot be read as Python"
        yield Finding("R387", what, where, str(error).splitlines()[0], "correct the file")
        return
    if source.function_name not in _names_in(tree):
        yield Finding(
            "R387",
            f"{path} defines no `{source.function_name}`",
            where,
            "the function must be on the top level of the file",
            "correct the name after the colon",
        )


def check_allowed(
    sources: Sequence[RewardSettings], functions: Collection[str], at: DataPath, composed: Composed
) -> None:
    """Raise `RecipeError` R386 for the first source that is a function and not among the allowed `functions`. The list
    of sources stands at a path of the recipe."""
    for place, source in enumerate(sources):
        if isinstance(source, FunctionReward) and source.function not in functions:
            raise RecipeError(replace(not_allowed(source), where=composed.where((*at, place, "function"))))


def not_allowed(source: FunctionReward) -> Finding:
    """R386 for a function that the command line does not allow."""
    return Finding(
        "R386",
        f"this recipe asks to run the function `{source.function_name}` of {source.file}",
        None,
        "a recipe must not be able to run code by itself",
        f"read that file, then add `--reward-function {source.function}` to the command",
    )


def _names_in(tree: ast.Module) -> set[str]:
    """The names that the top level of a module may define."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).partition(".")[0])
    return names


def _check_pattern(pattern: str, where: Where) -> Iterator[Finding]:
    try:
        re.compile(pattern)
    except re.error as error:
        yield Finding(
            "R388",
            "the regular expression is not valid",
            where,
            str(error),
            "correct it; in YAML, single quotes keep a backslash as it is: '\\d+'",
        )


def _check_bounds(source: LengthReward, at: DataPath, composed: Composed) -> Iterator[Finding]:
    if source.min == 0 and source.max is None:
        why, fix = "without `min` and `max`, each answer has the right length", "add `min`, `max` or both"
    elif source.max is not None and source.min > source.max:
        why, fix = f"`min` is {source.min} and `max` is {source.max}", "exchange them"
    else:
        return
    yield Finding("R388", "no answer can be too short or too long" if source.max is None else "no length is right",
                  composed.where((*at, "rule"), key=True), why, fix)  # fmt: skip
