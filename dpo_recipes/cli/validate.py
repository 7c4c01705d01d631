"""`dpo-recipe validate`: every finding about one or more recipes or chains, in a fraction of a second."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from dpo_recipes.cli.options import JsonOption, SetOption, find_recipe
from dpo_recipes.errors import DpoRecipeError, Finding
from dpo_recipes.jobs.chain_file import ValidatedChain, validate_file


def validate(
    recipes: Annotated[
        list[str], typer.Argument(help="Recipes: paths, or names of shipped ones.", metavar="RECIPE...")
    ],
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Check recipes and chains without running them. Exit code 3 when one is wrong."""
    reports, exit_code = [], 0
    for reference in recipes:
        findings: tuple[Finding, ...]
        name, code = None, 0
        try:
            validated = validate_file(find_recipe(reference), set_)
            job = validated.chain if isinstance(validated, ValidatedChain) else validated.recipe
            name, findings = job.name, validated.warnings
        except DpoRecipeError as error:
            findings, code = error.findings, error.exit_code
        exit_code = exit_code or code
        reports.append(
            {
                "file": reference,
                "valid": code == 0,
                "name": name,
                "findings": [f.to_json() for f in findings],
            }
        )
        if not json_:
            for finding in findings:
                typer.echo(finding.render() + "\n", err=True)
            num_errors = sum(finding.severity == "error" for finding in findings)
            typer.echo(f"{reference}: {'ok' if code == 0 else f'{num_errors} error' + 's' * (num_errors != 1)}")
    if json_:
        typer.echo(json.dumps(reports, indent=2, ensure_ascii=False))
    raise typer.Exit(exit_code)
