"""The recipe of one step of a chain: the recipe that it names, what stands in the step itself, and overrides."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dpo_recipes.errors import Finding, RecipeError
from dpo_recipes.recipe.compose import Composed, Origin, Placement, compose, merge_over, override, place_values
from dpo_recipes.recipe.load import DataPath
from dpo_recipes.recipe.references import is_reference
from dpo_recipes.recipe.schema.chain import FROM_THE_CHAIN, NOT_IN_A_STEP, Chain, StepHead
from dpo_recipes.recipe.schema.recipe import SCHEMA_VERSION

_MAX_NAME = 100
_OF_A_CHAIN = {"schema", *Chain.model_fields}
_OF_THE_PATH = ("sha256", "revision")
"""Fields of `model` that are about its `path`."""


def split_overrides(
    overrides: Sequence[str] | None, sections_of_steps: Mapping[str, Collection[str]]
) -> tuple[list[str], dict[str, list[str]]]:
    """The `--set` overrides of the chain itself, and those of each step.

    `steps.NAME.training.learning_rate=1e-5` is for one step, and `training.learning_rate=1e-5` for all steps that have
    such a section. `sections_of_steps` are the sections that each step can have.
    """
    of_chain: list[str] = []
    of_steps: dict[str, list[str]] = {name: [] for name in sections_of_steps}
    for each in overrides or ():
        path = each.partition("=")[0].strip().split(".", 2)
        name, first = path[1] if len(path) > 2 else "", path[0].partition("[")[0]
        if first == "steps" and name in of_steps and path[2] not in StepHead.model_fields:
            of_steps[name].append(each)
            continue
        takers = [name for name, sections in sections_of_steps.items() if first in sections]
        if first in _OF_A_CHAIN or not takers:
            of_chain.append(each)
            continue
        for name in takers:
            of_steps[name].append(each)
    return of_chain, of_steps


def compose_step(
    chain: Composed, name: str, head: StepHead, overrides: Sequence[str], sections: Collection[str]
) -> Composed:
    """The data of a step, whose kind has some `sections`. If these are among them, it has the name `CHAIN-STEP`, and
    the chain's name as the project and the group of trackers.

    Raises `RecipeError` R113 for paths that cannot be set, R375 for keys that a step cannot have, and those of
    `compose` for its recipe.
    """
    at: DataPath = ("steps", name)
    place = chain.where(at, key=True)
    base = _load(chain, at, head)
    inline = {key: value for key, value in chain.data["steps"][name].items() if key not in StepHead.model_fields}
    composed = merge_over(base, inline, _below(chain, at))
    placements = [Placement(key, value, (*at, "set", key)) for key, value in head.set.items()]
    composed = override(place_values(composed, placements, chain), overrides, f"steps.{name}.")
    given = [key.removeprefix(f"steps.{name}.") for key in (*head.set, *overrides)]
    _check_keys(composed, [*inline, *map(_first, given)])
    data = {key: value for key, value in composed.data.items() if key not in FROM_THE_CHAIN}
    whole, suffix = str(chain.data["name"]), f"-{name}"
    if "name" in sections:
        data |= {"schema": SCHEMA_VERSION, "name": whole[: _MAX_NAME - len(suffix)] + suffix}
    tracking = data.get("tracking", {})
    if "tracking" in sections and isinstance(tracking, dict):  # validation reports other types
        data["tracking"] = {"project": whole, "group": whole, **tracking}
    composed = replace(composed, text=chain.text, data=data, step_place=place)
    return _without_marks_of_another_path(composed)


def _load(chain: Composed, at: DataPath, head: StepHead) -> Composed:
    """The recipe that a step names, or nothing in the file of the chain."""
    if head.recipe is None:
        return Composed(chain.file, chain.text, {}, {})
    origin = chain.origins[(*at, "recipe")]
    path = origin.folder / Path(head.recipe).expanduser()
    if not path.is_file():
        raise RecipeError.of(
            "R111",
            f"the recipe {path} does not exist",
            where=origin.where,
            why="`recipe:` is relative to the file that contains it",
            fix="correct the path",
        )
    found = compose(path)
    if "steps" in found.data:
        raise RecipeError.of(
            "R375",
            "a step cannot be a chain",
            where=origin.where,
            why=f"{found.file} has `steps` of its own",
            fix="write its steps in this file",
        )
    return found


def _below(chain: Composed, at: DataPath) -> dict[DataPath, Origin]:
    """The origins of what stands in a step, by the path in the step."""
    return {place[len(at) :]: origin for place, origin in chain.origins.items() if place[: len(at)] == at}


def _first(name: str) -> str:
    """The first key of a path as `--set` takes it."""
    return name.partition("=")[0].strip().split(".")[0].partition("[")[0]


def _check_keys(composed: Composed, given: Sequence[str]) -> None:
    """R375: a key that only a whole file has. In the recipe that a step names, most of them are simply not used."""
    findings = [
        Finding(
            "R375",
            f"a step cannot have `{key}`",
            composed.where((key,), key=True),
            why,
            f"remove `{key}`" if key != "sweep" else "sweep the recipe alone, and write the best values in the step",
        )
        for key, why in NOT_IN_A_STEP.items()
        if key in given or (key == "sweep" and key in composed.data)
    ]
    if findings:
        raise RecipeError(*findings)


def _without_marks_of_another_path(composed: Composed) -> Composed:
    """If the base of a step is what another one makes, the revision and the checksum that its recipe gives for another
    base are left out."""
    model = composed.data.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("path"), str) or not is_reference(model["path"]):
        return composed
    folder_of_path = composed.where(("model", "path")).file
    stale = [key for key in _OF_THE_PATH if key in model and composed.where(("model", key)).file != folder_of_path]
    kept: dict[str, Any] = {key: value for key, value in model.items() if key not in stale}
    return replace(composed, data={**composed.data, "model": kept})
