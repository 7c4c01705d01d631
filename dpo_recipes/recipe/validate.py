"""Validates composed data: returns a frozen `Recipe`, or raises one error with all findings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from dpo_recipes.errors import Finding, RecipeError
from dpo_recipes.recipe.checks import check_recipe
from dpo_recipes.recipe.compose import Composed, compose
from dpo_recipes.recipe.paths import resolve_paths
from dpo_recipes.recipe.schema import SCHEMA_VERSION, Recipe
from dpo_recipes.recipe.schema_findings import schema_findings
from dpo_recipes.recipe.secret_checks import hide_secrets


@dataclass(frozen=True)
class Validated:
    """A recipe without errors, with the composed data that it was built from and its warnings."""

    recipe: Recipe
    composed: Composed
    warnings: tuple[Finding, ...]


def validate(path: Path, overrides: list[str] | None = None) -> Validated:
    """Load, compose, resolve and check a recipe.

    Raises `RecipeError` with all findings of the first stage that fails: loading (R1xx), the schema (R2xx), or the
    checks across sections (R3xx).
    """
    composed = resolve_paths(compose(path, overrides))
    _check_version(composed)
    try:
        recipe = Recipe.model_validate(composed.data)
    except ValidationError as error:
        raise RecipeError(*_in_order(schema_findings(error, composed))) from None
    findings = check_recipe(recipe, composed)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise RecipeError(*_in_order(findings))
    return Validated(recipe, composed, tuple(findings))


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


def _in_order(findings: Iterable[Finding]) -> list[Finding]:
    def position(finding: Finding) -> tuple[bool, str, int, int]:
        where = finding.where
        return (finding.severity != "error", where.file, where.line, where.column) if where else (True, "", 0, 0)

    return sorted(hide_secrets(findings), key=position)
