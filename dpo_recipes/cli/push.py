"""`dpo-recipe push`: put an artifact into a registry or on the hub."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from dpo_recipes.artifacts.publish import publish
from dpo_recipes.artifacts.references import find_artifact
from dpo_recipes.cli.options import JsonOption, ReferenceArgument, show_note


def push(
    artifact: ReferenceArgument,
    to: Annotated[
        str,
        typer.Argument(help="Where to: oci://REGISTRY/NAME:TAG or hf://OWNER/NAME[/FILE].", metavar="TO"),
    ],
    move_tag: Annotated[
        bool, typer.Option("--move-tag", help="Let a tag of a registry that leads to something else lead to this.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Store an artifact in a registry or on the hub. Prints the reference by which others run exactly this one."""
    verified = find_artifact(artifact, show_note)
    reference = publish(verified, to, may_move=move_tag)
    if json_:
        typer.echo(json.dumps({"reference": reference, "digest": f"sha256:{verified.digest}"}, indent=2))
        return
    typer.echo(reference)
