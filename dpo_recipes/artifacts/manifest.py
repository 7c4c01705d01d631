"""The manifest of an artifact: its first file, which names all others with their sizes and SHA-256."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field, ValidationError

from dpo_recipes.errors import SharingError
from dpo_recipes.recipe.schema.recipe import NAME
from dpo_recipes.section import Section

FORMAT = "dpo-recipe artifact"
VERSION = 1
MANIFEST = "manifest.json"
SIGNATURE = "signature.ssh"
RECIPE_FOLDER = "recipe"
"""The folder of the recipe with its parents, data and templates, which keep their places to each other."""
RESULTS_FOLDER = "results"
ADAPTER_FOLDER = "adapter"
MAX_MANIFEST_BYTES = 1_000_000
Role = Literal["recipe", "lock", "template", "data", "result", "adapter"]
NeedKind = Literal["data", "model", "adapter", "function"]


class FileEntry(Section):
    """A file of the artifact."""

    role: Role
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Need(Section):
    """A local file or folder that the recipe names and that is not in the artifact."""

    path: str
    """In the artifact, if it were there."""
    kind: NeedKind
    sha256: str | None = None
    """Of a single file."""
    bytes: int | None = None


class Manifest(Section):
    """What an artifact holds."""

    format: Literal["dpo-recipe artifact"] = FORMAT
    version: Literal[1] = VERSION
    name: str = Field(pattern=NAME)
    summary: str = ""
    recipe: str
    """The file that is run."""
    files: dict[str, FileEntry]
    needs: list[Need] = Field(default_factory=list)
    data_licence: str | None = None
    """The terms under which the data in the artifact may be used, as its author states them."""
    run: str | None = None
    """The name of the run whose results or adapter are in the artifact."""

    def to_bytes(self) -> bytes:
        """The text of the file, the same for the same content."""
        plain = self.model_dump(mode="json")
        return (json.dumps(plain, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()

    def with_role(self, *roles: Role) -> list[str]:
        """The names of files with one of these roles."""
        return [name for name, entry in self.files.items() if entry.role in roles]


def read_manifest(raw: bytes, shown: str) -> Manifest:
    """Parse the manifest of the artifact `shown`. Raises `SharingError` S306 (invalid) and S313 (a newer version)."""
    try:
        data = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise _invalid(shown, str(error)) from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise _invalid(shown, f"it does not say that it is the manifest of a {FORMAT}")
    version = data.get("version")
    if isinstance(version, int) and version > VERSION:
        raise SharingError.of(
            "S313",
            f"{shown} is an artifact of version {version}",
            why=f"this dpo-recipe reads version {VERSION}",
            fix="upgrade dpo-recipe, or ask its author to pack it with an older one",
        )
    try:
        manifest = Manifest.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise _invalid(shown, f"{place}: {first['msg']}") from error
    if manifest.to_bytes() != raw:
        raise _invalid(shown, "it is not written as `pack` writes it, with all keys sorted")
    return manifest


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError("a key is set twice")
    return data


def _invalid(shown: str, why: str) -> SharingError:
    return SharingError.of(
        "S306",
        f"the manifest of {shown} is not valid",
        why=why,
        fix="make the artifact again with `dpo-recipe pack`",
    )
