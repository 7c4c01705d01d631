"""`dpo-recipe verify`: check an artifact without running or unpacking anything of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from dpo_recipes.artifacts.references import find_artifact
from dpo_recipes.artifacts.signature import find_signer, require_trusted
from dpo_recipes.cli.artifact_text import describe_artifact, plain_artifact
from dpo_recipes.cli.options import JsonOption, ReferenceArgument, show_note

AllowedSignersOption = Annotated[
    Path | None,
    typer.Option(
        help="The file that says whose keys are trusted (ssh-keygen(1), ALLOWED SIGNERS). Absent: the one that "
        "DPO_RECIPE_ALLOWED_SIGNERS names.",
        metavar="FILE",
        show_default=False,
    ),
]


def verify(
    reference: ReferenceArgument,
    allowed_signers: AllowedSignersOption = None,
    require_signature: Annotated[
        bool, typer.Option("--require-signature", help="Fail unless a trusted key has signed it.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Check an artifact without running anything of it.

    These are every hash, name, text and template in it, and its signature. Exit code 7 if it is refused.
    """
    artifact = find_artifact(reference, show_note)
    signer = find_signer(artifact.manifest_bytes, artifact.signature, allowed_signers, reference)
    if require_signature:
        require_trusted(signer, reference)
    if json_:
        typer.echo(json.dumps(plain_artifact(artifact, signer), indent=2, ensure_ascii=False))
        return
    typer.echo(f"{reference}: ok")
    typer.echo("\n".join([*describe_artifact(artifact), f"signer    {signer}"]))
