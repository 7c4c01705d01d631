"""`dpo-recipe schema`: the JSON schema with which editors complete and check recipes and chains."""

from __future__ import annotations

import json

import typer

from dpo_recipes.jobs.chain_schema import job_json_schema


def schema() -> None:
    """Print the JSON schema of recipes and chains, for editors."""
    typer.echo(json.dumps(job_json_schema(), indent=2, ensure_ascii=False))
