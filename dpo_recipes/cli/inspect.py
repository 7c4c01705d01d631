"""`dpo-recipe inspect`: what running a recipe would do."""

from __future__ import annotations

import json

import typer

from dpo_recipes.artifacts.references import find
from dpo_recipes.artifacts.signature import find_signer
from dpo_recipes.cli.artifact_text import describe_inspection, plain_artifact
from dpo_recipes.cli.options import JsonOption, ReferenceArgument, show_note
from dpo_recipes.cli.verify import AllowedSignersOption
from dpo_recipes.jobs.inspection import inspect_recipe


def inspect(
    reference: ReferenceArgument, allowed_signers: AllowedSignersOption = None, json_: JsonOption = False
) -> None:
    """Say what running a recipe would do.

    Model, data, network, disk, time and memory here, what it asks to execute, and who signed it. Nothing is executed,
    and nothing but the artifact itself is fetched.
    """
    found = find(reference, show_note)
    artifact, signer = found.artifact, None
    if artifact is not None:
        signer = find_signer(artifact.manifest_bytes, artifact.signature, allowed_signers, reference)
    inspection = inspect_recipe(found.path)
    if json_:
        plain = {"reference": reference, "artifact": None, **inspection.to_json()}
        if artifact is not None and signer is not None:
            plain["artifact"] = plain_artifact(artifact, signer)
        typer.echo(json.dumps(plain, indent=2, ensure_ascii=False))
        return
    typer.echo("\n".join(describe_inspection(inspection, artifact, signer)))
