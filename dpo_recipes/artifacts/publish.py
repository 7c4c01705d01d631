"""Stores artifacts where others can fetch them."""

from __future__ import annotations

from dpo_recipes import registry
from dpo_recipes.artifacts.artifact import Artifact
from dpo_recipes.artifacts.references import scheme_of
from dpo_recipes.errors import SharingError


def publish(artifact: Artifact, to: str, *, may_move: bool = False) -> str:
    """Store an artifact at an address and return the reference that names exactly this one. `may_move` lets a tag that
    leads to something else lead to it.

    Raises `SharingError` S401 if nothing can be stored there, and S402 to S404, S411 and S412.
    """
    scheme = scheme_of(to)
    kind = registry.load("references", scheme) if scheme in registry.names("references") else None
    if not hasattr(kind, "push"):
        raise SharingError.of(
            "S401",
            f"nothing can be pushed to {to}",
            why="artifacts are pushed to OCI registries and to the hub",
            fix="write oci://REGISTRY/NAME:TAG or hf://OWNER/NAME; to another server, copy the file with its own tools",
        )
    assert kind is not None
    return kind(to).push(artifact, may_move=may_move)
