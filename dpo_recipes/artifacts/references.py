"""Finds a recipe by any kind of reference, the same wherever a command names one.

A reference is the path of a recipe or of an artifact, the name of a shipped recipe, or an address of one of the schemes
in `registry.REFERENCES` (docs/sharing.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dpo_recipes import registry
from dpo_recipes.artifacts.names import BLOCK, is_container
from dpo_recipes.errors import SharingError
from dpo_recipes.shipped import find_recipe as find_local_recipe
from dpo_recipes.shipped import recipe_paths

if TYPE_CHECKING:  # a recipe that is not packed needs none of these
    from dpo_recipes.artifacts.artifact import Artifact

OnNote = Callable[[str], None]


@dataclass(frozen=True)
class FoundRecipe:
    """A recipe that a reference leads to."""

    reference: str
    path: Path
    """The file to run. That of an artifact is in the cache."""
    artifact: Artifact | None = None
    """None for a recipe that is not packed."""

    @property
    def is_new_here(self) -> bool:
        """Whether it comes from elsewhere, and nobody has allowed it to run here yet."""
        from dpo_recipes.artifacts.store import is_allowed

        return self.artifact is not None and not is_allowed(self.artifact.digest)

    def check_may_change(self) -> None:
        """Raise `SharingError` S209 if the recipe, or its lock, cannot be changed here, because it is packed or belongs
        to this package."""
        if self.path == recipe_paths().get(self.reference):
            raise SharingError.of(
                "S209",
                f"{self.reference} is a shipped recipe, beside which no lock can be written",
                why="it belongs to the installed package, not to you",
                fix=f"copy it with `dpo-recipe cp {self.reference} .`, and lock the copy",
            )
        if self.artifact is not None:
            raise SharingError.of(
                "S209",
                f"the lock in {self.reference} cannot be made again",
                why="an artifact stays what its author has packed",
                fix=f"unpack it with `dpo-recipe pull {self.reference}`, and lock the recipe there; or run it with "
                "`--lock off`",
            )


def scheme_of(reference: str) -> str | None:
    """The scheme of an address, such as `oci`; None for paths and names."""
    scheme, separator, _ = reference.partition("://")
    return scheme if separator else None


def is_address(text: str) -> bool:
    """Whether a text that may also name data is the address of a recipe. `https://` addresses have the SHA-256 of the
    recipe then."""
    scheme = scheme_of(text)
    return scheme in registry.names("references") and (scheme != "https" or "#sha256=" in text)


def find(reference: str, on_note: OnNote = lambda text: None) -> FoundRecipe:
    """Follow a reference. An artifact is fetched once, verified, and unpacked in the cache.

    `on_note` gets what a person should know, such as a tag that has moved. Raises `RecipeError` R101 (no such recipe),
    and `SharingError` S2xx, S3xx and S4xx.
    """
    if scheme_of(reference) is None:
        path = find_local_recipe(reference)
        if not is_artifact_file(path):
            return FoundRecipe(reference, path)
    artifact = find_artifact(reference, on_note)
    from dpo_recipes.artifacts.store import unpacked_recipe

    return FoundRecipe(reference, unpacked_recipe(artifact), artifact)


def find_recipe(reference: str, on_note: OnNote = lambda text: None) -> Path:
    """The file that a reference leads to. Raises what `find` raises."""
    return find(reference, on_note).path


def find_artifact(reference: str, on_note: OnNote = lambda text: None) -> Artifact:
    """The verified artifact that a reference leads to. Raises what `find` raises, and `SharingError` S301 for a recipe
    that is not packed."""
    from dpo_recipes.artifacts import fetch, store

    scheme = scheme_of(reference)
    if scheme is None:
        return store.keep_verified(find_local_recipe(reference), reference)
    try:
        make_source: Callable[[str], fetch.Source] = registry.load("references", scheme)
    except KeyError:
        known = ", ".join(f"{name}://" for name in registry.names("references"))
        raise SharingError.of(
            "S401",
            f"{reference} is no reference to a recipe",
            why=f"`{scheme}://` is not one of {known}",
            fix="give the path of a recipe or artifact, the name of a shipped recipe, or one of these addresses",
        ) from None
    return fetch.fetch(reference, make_source(reference), on_note)


def is_artifact_file(path: Path) -> bool:
    """Whether a file is a packed recipe, by its name or its first bytes, and not a text."""
    if ".recipe.tar" in path.name and path.is_file():
        return True
    try:
        with path.open("rb") as file:
            return is_container(file.read(BLOCK))
    except OSError:
        return False  # whoever reads it as a recipe says why
