"""Reads and checks a file that describes a job: a recipe, or a chain with all of its steps."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic.fields import FieldInfo

from dpo_recipes import registry
from dpo_recipes.errors import Finding, RecipeError, SharingError
from dpo_recipes.jobs.chain_checks import check_cycle, check_names, check_products, findings_of_steps, order_of_need
from dpo_recipes.jobs.steps.base import CheckedStep, Need, Step, StepKind
from dpo_recipes.recipe.compose import Composed, compose, override
from dpo_recipes.recipe.load import DataPath
from dpo_recipes.recipe.references import find_references
from dpo_recipes.recipe.rounds import NamedStep, Rounds, check_rounds, check_sameness, split_round, unroll
from dpo_recipes.recipe.schema.chain import Chain, StepHead
from dpo_recipes.recipe.steps import check_rounds_of_overrides, compose_step, overrides_of, sets_rounds, split_overrides
from dpo_recipes.recipe.validate import Validated, in_order, validate_schema, validate_with_trials
from dpo_recipes.shipped import LOCK_SUFFIX


@dataclass(frozen=True)
class ValidatedChain:
    """A chain without errors."""

    chain: Chain
    composed: Composed
    """The data of the file, in which the steps stand as they were written."""
    steps: tuple[Step, ...]
    """Each stands behind those that it needs."""
    warnings: tuple[Finding, ...]


@dataclass(frozen=True)
class _Written:
    """A step that was read, with its kind."""

    kind: StepKind
    composed: Composed
    texts: Mapping[DataPath, str]
    """What the file has in the places of references."""


class _Found(NamedTuple):
    """A finding about a step."""

    step: NamedStep
    finding: Finding


def validate_file(path: Path, overrides: Sequence[str] | None = None) -> Validated | ValidatedChain:
    """Load and check a file of either kind. The `overrides` of a chain are for the chain, for one of its steps, or for
    all steps that have such a section.

    Raises `RecipeError` with all findings, as `validate` does; those of a chain are the ones of all steps and of the
    references between them (R371 to R375, R378, R379).
    """
    composed = compose(path)
    if "lock" in composed.data and path.name.endswith(LOCK_SUFFIX):
        raise SharingError.of(
            "S117",
            f"{path.name} is a lock",
            where=composed.where(("lock",), key=True),
            why="it lies beside the recipe that it belongs to",
            fix=f"give the recipe: {path.name.removesuffix(LOCK_SUFFIX)}.yaml",
        )
    if "steps" in composed.data:
        return _validate_chain(composed, overrides)
    return validate_with_trials(override(composed, overrides))


def validate_recipe(path: Path, overrides: Sequence[str] | None, verb: str) -> Validated:
    """A single recipe for a command. Raises `RecipeError` U408 if the file is a chain, and those of `validate_file`."""
    validated = validate_file(path, overrides)
    if isinstance(validated, ValidatedChain):
        raise RecipeError.of(
            "U408",
            f"`dpo-recipe {verb}` takes one recipe, and {path} is a chain",
            where=validated.composed.where(("steps",), key=True),
            why="each of its steps is a recipe of its own",
            fix="give the recipe of a step, or write the step into a file of its own",
        )
    return validated


def _validate_chain(file: Composed, overrides: Sequence[str] | None) -> ValidatedChain:
    has_rounds = "rounds" in file.data or sets_rounds(overrides)
    sections_in_file = _sections_of_steps(file, has_rounds=has_rounds)
    of_chain, of_steps = split_overrides(overrides, sections_in_file, has_rounds=has_rounds)
    file = override(file, of_chain)
    chain = validate_schema(file, Chain)
    rounds = unroll(chain)
    if wrong := [*check_rounds(chain, file), *check_rounds_of_overrides(of_steps, rounds)]:
        raise RecipeError(*in_order(wrong))
    findings: list[_Found] = []
    written: dict[str, _Written] = {}
    checked: dict[str, CheckedStep] = {}
    for step in rounds.steps:
        with _collected(step, findings):
            kind = _find_kind(file, chain, step.written)
            sections = kind.section.model_fields
            own = overrides_of(step, of_steps, sections)
            composed, texts = compose_step(file, step, chain.steps, own, sections, rounds)
            written[step.name] = _Written(kind, composed, texts)
            checked[step.name] = kind.check(composed)
    steps, wrong = _connect(written, checked, rounds)
    by_name = {step.name: step for step in rounds.steps}
    findings += [_Found(by_name[step.name], finding) for step in steps for finding in check_products(step)]
    findings += [_Found(by_name[name], finding) for name, each in checked.items() for finding in each.warnings]
    composed_steps = {name: each.composed for name, each in written.items()}
    wrong += check_sameness(composed_steps, rounds, [step.name for step in steps])
    found = tuple(in_order([*findings_of_steps(_once_for_all_rounds(findings), file.file), *wrong]))
    if any(finding.severity == "error" for finding in found):
        raise RecipeError(*found)
    return ValidatedChain(chain, file, steps, found)


def _once_for_all_rounds(findings: Sequence[_Found]) -> Iterator[tuple[str, Finding]]:
    """Findings with the names of their steps in the file. One that several rounds of a step have is that of the first
    of them, although each names another value."""
    known: dict[tuple[str, str, object], int | None] = {}
    for found in findings:
        key = (found.step.written, found.finding.code, found.finding.where)
        if known.setdefault(key, found.step.round) == found.step.round:
            yield found.step.written, found.finding


def _sections_of_steps(file: Composed, *, has_rounds: bool) -> dict[str, Mapping[str, FieldInfo]]:
    """The fields that each step of the file can have, as far as the steps can be read."""
    steps, known = file.data["steps"], registry.names("step_kinds")
    found: dict[str, Mapping[str, FieldInfo]] = {}
    for name, step in steps.items() if isinstance(steps, dict) else ():
        default = StepHead.model_fields["kind"].default
        split = split_round(name, steps) if has_rounds else None
        whole = steps[split[0]] if split is not None else None
        if isinstance(whole, dict) and whole.get("once") is not True:  # this is a round of that step
            default = whole.get("kind", default)
        kind = step.get("kind", default) if isinstance(step, dict) else None
        if isinstance(kind, str) and kind in known:
            found[name] = registry.load("step_kinds", kind).section.model_fields
    return found


@contextlib.contextmanager
def _collected(step: NamedStep, findings: list[_Found]) -> Iterator[None]:
    try:
        yield
    except RecipeError as error:
        findings += [_Found(step, finding) for finding in error.findings]


def _find_kind(file: Composed, chain: Chain, name: str) -> StepKind:
    kind = chain.steps[name].kind
    try:
        return registry.load("step_kinds", kind)
    except KeyError:
        known = registry.names("step_kinds")
        near = difflib.get_close_matches(kind, known, n=1, cutoff=0.5)
        raise RecipeError.of(
            "R204",
            f"`steps.{name}.kind` cannot be the text `{kind}`",
            where=file.where(("steps", name, "kind")),
            why=f"it is one of {', '.join(known)}",
            fix=f"did you mean `{near[0]}`?" if near else "choose one of these",
        ) from None


def _connect(
    written: Mapping[str, _Written], checked: Mapping[str, CheckedStep], rounds: Rounds
) -> tuple[tuple[Step, ...], list[Finding]]:
    """The steps with those that they need, in the order of need, without steps that have errors of their own; and the
    references that lead nowhere or back."""
    composed = {name: step.composed for name, step in written.items()}
    references = {name: list(find_references(each.data)) for name, each in composed.items()}
    wrong = [*check_names(references, composed, rounds), *check_cycle(references, composed, rounds)]
    steps: dict[str, Step] = {}
    for name in order_of_need(references):
        needs = [
            Need(each.at, steps[each.name], written[name].texts.get(each.at, each.text))
            for each in references[name]
            if each.name in steps
        ]
        if name in checked:
            named = rounds.named(name)
            steps[name] = Step(name, written[name].kind, checked[name], tuple(needs), named.written, named.round)
    return tuple(steps.values()), wrong
