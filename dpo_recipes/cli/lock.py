"""`dpo-recipe lock`: write the lock of a recipe or a chain, or compare them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from dpo_recipes.artifacts.references import find
from dpo_recipes.cli.options import JsonOption, RecipeArgument, SetOption, short_path, show_note
from dpo_recipes.cli.progress import write_message
from dpo_recipes.errors import DpoRecipeError, Finding
from dpo_recipes.formats import format_bytes
from dpo_recipes.jobs.chain_file import ValidatedChain, validate_file
from dpo_recipes.recipe.validate import Validated
from dpo_recipes.share.lock_file import Lock, lock_path


def lock(
    recipe: RecipeArgument,
    set_: SetOption = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit code 7 if anything differs from the lock.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Write NAME.lock.yaml beside a recipe: models, data, settings and packages by their content.

    `dpo-recipe run` then refuses what differs. Weights on the hub are not downloaded."""
    found = find(recipe, show_note)
    path = found.path
    if not check:
        found.check_may_change()
    validated = validate_file(path, set_)
    if check:
        _check(path, validated, json_=json_)
        return
    from dpo_recipes.share.locked_job import update_lock

    made = update_lock(path, validated, show_stage)
    if json_:
        typer.echo(json.dumps(made.model_dump(mode="json", exclude_none=True), indent=2, ensure_ascii=False))
        return
    print("\n".join(describe_lock(made)), file=sys.stderr)
    typer.echo(short_path(lock_path(path).resolve()))


def show_stage(name: str, detail: str) -> None:
    """Show what is being done."""
    write_message(f"{name:<9} {detail}\n")


def describe_lock(made: Lock) -> list[str]:
    """What a lock fixes, line by line."""
    lines = []
    for step, job in made.jobs.items():
        prefix = f"{step}: " if step else ""
        for key, one in job.inputs.items():
            num_bytes = sum(file.size for file in one.files.values())
            size = format_bytes(num_bytes) if num_bytes >= 2**20 else f"{num_bytes} bytes"
            commit = f" at {one.commit[:12]}" if one.commit else ""
            count = f"{len(one.files)} file{'s' * (len(one.files) != 1)}"
            lines.append(f"locked    {prefix}{key}{commit}: {count}, {size}")
        for split, rows in job.rows.items():
            lines.append(f"locked    {prefix}{rows.rows} rows of `{split}`")
    versions = ", ".join(f"{name} {version}" for name, version in made.packages.items())
    return [*lines, f"locked    {versions}"]


def _check(path: Path, validated: Validated | ValidatedChain, *, json_: bool) -> None:
    from dpo_recipes.share.check import Scope
    from dpo_recipes.share.locked_job import check_lock

    findings: list[Finding] | tuple[Finding, ...]
    code = 0
    try:
        findings = check_lock(path, validated, Scope(may_download=False), show_stage)
    except DpoRecipeError as error:
        findings, code = error.findings, error.exit_code
    errors = [finding for finding in findings if finding.severity == "error"]
    code = code or (DpoRecipeError(*errors).exit_code if errors else 0)
    if json_:
        plain: dict[str, Any] = {"lock": str(lock_path(path)), "equal": code == 0}
        typer.echo(json.dumps({**plain, "findings": [one.to_json() for one in findings]}, indent=2))
    else:
        for finding in findings:
            write_message(f"{finding.render()}\n\n")
        typer.echo(f"{path}: {'as locked' if code == 0 else 'differs from its lock'}")
    raise typer.Exit(code)
