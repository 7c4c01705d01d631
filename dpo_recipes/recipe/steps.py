"""The recipe of one step of a chain: the recipe that it names, what stands in the step itself, and overrides."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from dpo_recipes.errors import Finding, RecipeError, Where
from dpo_recipes.recipe.compose import (
    Composed,
    Origin,
    Placement,
    compose,
    merge_over,
    override,
    place_values,
    without_prefix,
)
from dpo_recipes.recipe.load import DataPath
from dpo_recipes.recipe.rounds import NamedStep, Rounds, no_such_round, resolve_references, split_round
from dpo_recipes.recipe.schema.chain import FROM_THE_CHAIN, NOT_IN_A_STEP, Chain, StepHead
from dpo_recipes.recipe.schema.recipe import SCHEMA_VERSION
from dpo_recipes.recipe.schema_fields import has_values_below

_MAX_NAME = 100
_OF_A_CHAIN = {"schema", *Chain.model_fields}
_BASE: DataPath = ("model", "path")
_OF_THE_PATH = ("sha256", "revision")
"""Fields of `model` that are about its `path`."""


def split_overrides(
    overrides: Sequence[str] | None, sections_of_steps: Mapping[str, Mapping[str, FieldInfo]], *, has_rounds: bool
) -> tuple[list[str], list[str]]:
    """The `--set` overrides of the chain itself, and those of steps.

    `steps.NAME.training.learning_rate=1e-5` is for one step, in a chain with rounds for all of its rounds, and
    `steps.NAME-2...` for the second one. `training.learning_rate=1e-5` is for all steps that have such a section:
    `data.limit` is not for a step whose `data` is a text. `sections_of_steps` are the fields that each step of the file
    can have. `has_rounds`: the chain has rounds.
    """
    of_chain: list[str] = []
    of_steps: list[str] = []
    for each in overrides or ():
        first, name, rest = _parts(each)
        is_step = name in sections_of_steps or (has_rounds and split_round(name, sections_of_steps) is not None)
        if first == "steps" and is_step:
            is_for_steps = rest not in StepHead.model_fields
        else:
            is_taken = any(_fits(each, fields) for fields in sections_of_steps.values())
            is_for_steps = is_taken and first not in _OF_A_CHAIN
        (of_steps if is_for_steps else of_chain).append(each)
    return of_chain, of_steps


def sets_rounds(overrides: Sequence[str] | None) -> bool:
    """Whether an override is for the number of rounds."""
    return any(_parts(each)[0] == "rounds" for each in overrides or ())


def overrides_of(step: NamedStep, overrides: Sequence[str], fields: Mapping[str, FieldInfo]) -> list[str]:
    """The overrides that are for one step, of those that are for steps. It can have some `fields`."""
    found = []
    for each in overrides:
        first, name, _ = _parts(each)
        if name in (step.written, step.name) if first == "steps" else _fits(each, fields):
            found.append(each)
    return found


def _fits(given: str, fields: Mapping[str, FieldInfo]) -> bool:
    """Whether a step with some fields can take an override: it has the first one, with values below it if the path goes
    on."""
    first, path = _first(given), given.partition("=")[0].strip()
    return first in fields and (first == path or has_values_below(fields[first].annotation))


def check_rounds_of_overrides(overrides: Sequence[str], rounds: Rounds) -> Iterator[Finding]:
    """R379: an override for a round that the chain does not have."""
    names = {step.name for step in rounds.steps} | {step.written for step in rounds.steps}
    for each in overrides:
        first, name, _ = _parts(each)
        split = split_round(name, names)
        if first == "steps" and name not in names and split is not None:
            where = Where("--set", 1, 1, len(each.partition("=")[0]), each)
            if split[0] in rounds.repeated:
                yield no_such_round(*split, rounds.count or 0, where)
            else:
                why = f"step `{split[0]}` has `once: true`"
                yield Finding("R379", f"step `{split[0]}` has no rounds", where, why, f"write `steps.{split[0]}...`")


def _parts(given: str) -> tuple[str, str, str]:
    """The first key of an override, and for `steps.NAME.PATH` name and path."""
    path = given.partition("=")[0].strip().split(".", 2)
    name, rest = (path[1], path[2]) if len(path) > 2 else ("", "")
    return path[0].partition("[")[0], name, rest


def compose_step(
    chain: Composed,
    step: NamedStep,
    heads: Mapping[str, StepHead],
    overrides: Sequence[str],
    sections: Collection[str],
    rounds: Rounds,
) -> tuple[Composed, dict[DataPath, str]]:
    """The data of a step, whose kind has some `sections`, and the references in it as they were written. If these are
    among the sections, it has the name `CHAIN-STEP`, the chain's name as the project and the group of trackers, and the
    number of the round.

    Raises `RecipeError` R113 for paths that cannot be set, R375 for keys that a step cannot have, R371 and R378 for
    references, and those of `compose` for its recipe.
    """
    at: DataPath = ("steps", step.written)
    composed = base = _load(chain, at, heads[step.written])
    given: list[str] = []
    for key in step.entries:  # the step, and this round over it
        inline = {name: value for name, value in chain.data["steps"][key].items() if name not in StepHead.model_fields}
        composed = merge_over(composed, inline, _below(chain, ("steps", key)))
        values = heads[key].set
        composed = place_values(
            composed, [Placement(name, value, ("steps", key, "set", name)) for name, value in values.items()], chain
        )
        given += [*inline, *map(_first, values)]
    composed = override(composed, overrides, step.prefixes)
    _check_keys(composed, [*given, *(_first(without_prefix(each.strip(), step.prefixes)) for each in overrides)])
    data = {key: value for key, value in composed.data.items() if key not in FROM_THE_CHAIN}
    origins = composed.origins
    whole, suffix = str(chain.data["name"]), f"-{step.name}"
    if "name" in sections:
        data |= {"schema": SCHEMA_VERSION, "name": whole[: _MAX_NAME - len(suffix)] + suffix}
    tracking = data.get("tracking", {})
    if "tracking" in sections and isinstance(tracking, dict):  # validation reports other types
        data["tracking"] = {"project": whole, "group": whole, **tracking}
    if "round" in sections and step.round is not None and "round" not in data:
        data, origins = {**data, "round": step.round}, {**origins, ("round",): chain.origins[("rounds",)]}
    place = chain.where(at, key=True)
    composed = replace(composed, text=chain.text, data=data, origins=origins, step_place=place)
    composed, texts = resolve_references(composed, step, rounds, chain)
    return (_without_marks_of_another_path(composed, base) if _BASE in texts else composed), texts


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


def _without_marks_of_another_path(composed: Composed, recipe: Composed) -> Composed:
    """If the base of a step is what another one makes or a start, the revision and the checksum that its recipe gives
    for another base are left out."""
    model, before = composed.data["model"], recipe.data.get("model")
    if isinstance(before, dict) and before.get("path") == model["path"]:
        return composed
    stale = [key for key in _OF_THE_PATH if key in model and ("model", key) in recipe.origins]
    stale = [key for key in stale if composed.origins.get(("model", key)) == recipe.origins["model", key]]
    kept: dict[str, Any] = {key: value for key, value in model.items() if key not in stale}
    return replace(composed, data={**composed.data, "model": kept})
