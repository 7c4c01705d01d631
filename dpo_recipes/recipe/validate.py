"""Validates composed data: returns a frozen `Recipe`, or raises one error with all findings."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from dpo_recipes.errors import Finding, RecipeError, Where
from dpo_recipes.recipe.checks import check_recipe
from dpo_recipes.recipe.compose import Composed, compose
from dpo_recipes.recipe.paths import resolve_paths
from dpo_recipes.recipe.schema import SCHEMA_VERSION, Recipe
from dpo_recipes.recipe.schema_findings import schema_findings
from dpo_recipes.recipe.secret_checks import hide_secrets
from dpo_recipes.recipe.trials import Trial, compose_trial, trials_to_check
from dpo_recipes.section import Section

_Root = TypeVar("_Root", bound=Section)


@dataclass(frozen=True)
class Validated:
    """A recipe without errors, with the composed data that it was built from and its warnings."""

    recipe: Recipe
    composed: Composed
    warnings: tuple[Finding, ...]
    remote_code_of_trials: Where | None = None
    """Where the first of its trials that does so asks to run Python code from the model's repository."""

    @property
    def remote_code(self) -> Where | None:
        """Where the recipe or one of its trials asks to run Python code from the model's repository; None if none
        does."""
        if self.recipe.model.trust_remote_code:
            return self.composed.where(("model", "trust_remote_code"), key=True)
        return self.remote_code_of_trials


def validate(path: Path, overrides: list[str] | None = None) -> Validated:
    """Load, compose, resolve and check a recipe, and the recipe of each trial if it has a sweep.

    Raises `RecipeError` with all findings of the first stage that fails: loading (R1xx), the schema (R2xx), or the
    checks across sections (R3xx); then the same of the trials.
    """
    return validate_with_trials(compose(path, overrides))


def validate_with_trials(composed: Composed) -> Validated:
    """Like `validate`, of a recipe that is already composed."""
    validated = validate_composed(composed)
    warnings, remote_code = _check_trials(validated)
    return replace(validated, warnings=(*validated.warnings, *warnings), remote_code_of_trials=remote_code)


def validate_composed(composed: Composed) -> Validated:
    """Resolve and check a recipe that is already composed. The trials of a sweep are not checked."""
    composed = resolve_paths(composed)
    recipe = validate_schema(composed, Recipe)
    findings = check_recipe(recipe, composed)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise RecipeError(*in_order(findings))
    return Validated(recipe, composed, tuple(findings))


def validate_schema(composed: Composed, root: type[_Root]) -> _Root:
    """The data as the section `root`. Raises `RecipeError` R2xx with all findings."""
    _check_version(composed)
    try:
        return root.model_validate(composed.data)
    except ValidationError as error:
        raise RecipeError(*in_order(schema_findings(error, composed, root))) from None


def _check_trials(validated: Validated) -> tuple[list[Finding], Where | None]:
    """The warnings of the recipes of a sweep's trials that its own recipe does not have, and where the first of
    them that does so asks for remote code. Raises `RecipeError` with the errors of all trials."""
    composed, sweep = validated.composed, validated.recipe.sweep
    last_seed = sweep.seeds - 1 if sweep else 0
    spans = [origin.span for place, origin in composed.origins.items() if place[:1] == ("sweep",)]
    places = {where for span in spans for where in (span.value, span.key)}
    known = {(warning.code, warning.where) for warning in validated.warnings}
    trials = trials_to_check(validated.recipe)
    found: dict[tuple[Any, ...], tuple[Finding, list[Trial]]] = {}
    remote_code: Where | None = None
    for trial in trials:
        try:
            checked = validate_composed(compose_trial(composed, validated.recipe, trial, last_seed))
            findings, remote_code = checked.warnings, remote_code or checked.remote_code
        except RecipeError as error:
            findings = error.findings
        for finding in findings:
            # One finding for a range, of which each trial has another value.
            what = None if finding.where in places else finding.what
            found.setdefault((finding.code, what, finding.where), (finding, []))[1].append(trial)
    located = [
        finding if finding.where in places else _of_trials(finding, having, trials, composed)
        for finding, having in found.values()
        if finding.severity == "error" or (finding.code, finding.where) not in known
    ]
    if any(finding.severity == "error" for finding in located):
        raise RecipeError(*in_order(located))
    return located, remote_code


def _of_trials(finding: Finding, having: list[Trial], trials: list[Trial], composed: Composed) -> Finding:
    """A finding of some trials that points at none of their values, with the values of the first one. It points at the
    value that all of them and no other trials have, if there is one such value."""
    first, numbers = having[0], {trial.number for trial in having}
    without = [trial.placements for trial in trials if trial.number not in numbers]
    causes = [
        placement
        for placement in first.placements
        if all(placement in trial.placements for trial in having)
        and not any(placement in placements for placements in without)
    ]
    values = ", ".join(f"{name} {json.dumps(value)}" for name, value in first.values.items())
    why = "; ".join(part for part in (finding.why, f"in trial {first.number}: {values}") if part)
    return replace(finding, why=why, where=composed.where(causes[0].at) if len(causes) == 1 else finding.where)


def _check_version(composed: Composed) -> None:
    version = composed.data.get("schema")
    if "schema" in composed.data and version != SCHEMA_VERSION:
        raise RecipeError.of(
            "R201",
            f"schema version {version!r} is not known",
            where=composed.where(("schema",)),
            why=f"this dpo-recipe reads version {SCHEMA_VERSION}",
            fix=f"write `schema: {SCHEMA_VERSION}`, or upgrade dpo-recipe if the recipe is newer",
        )


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Findings without secrets: errors first, each in the order of its file."""

    def position(finding: Finding) -> tuple[bool, str, int, int]:
        where = finding.where
        return (finding.severity != "error", where.file, where.line, where.column) if where else (True, "", 0, 0)

    return sorted(hide_secrets(findings), key=position)
