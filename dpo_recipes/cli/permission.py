"""Asks before something from elsewhere is run for the first time."""

from __future__ import annotations

import sys

from dpo_recipes.artifacts.references import FoundRecipe
from dpo_recipes.errors import SharingError


def permit(found: FoundRecipe, *, yes: bool) -> None:
    """Show an artifact that is new here and let a person decide. What is allowed once is not asked again.

    Raises `SharingError` S408 if nobody can be asked, and S409 if the answer is no.
    """
    if not found.is_new_here or found.artifact is None:
        return
    from dpo_recipes.artifacts.signature import find_signer
    from dpo_recipes.artifacts.store import allow
    from dpo_recipes.cli.artifact_text import describe_inspection
    from dpo_recipes.jobs.inspection import inspect_recipe

    artifact = found.artifact
    signer = find_signer(artifact.manifest_bytes, artifact.signature, None, found.reference)
    lines = [f"{found.reference} is new here:", *describe_inspection(inspect_recipe(found.path), artifact, signer)]
    print("\n".join(lines), file=sys.stderr)
    if not yes:
        _ask(found.reference)
    allow(artifact.digest)


def _ask(reference: str) -> None:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise SharingError.of(
            "S408",
            f"{reference} has not been run here before",
            why="it comes from elsewhere, and without a terminal nobody can be asked whether to run it",
            fix="read the lines above, and add `--yes` if you want to run it",
        )
    print("Run it? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise SharingError.of(
            "S409", f"{reference} was not run", why="you have not allowed it", fix="answer `y` to run it"
        )
