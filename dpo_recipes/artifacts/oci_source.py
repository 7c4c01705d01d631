"""Artifacts in OCI registries: `oci://REGISTRY/NAME[:TAG][@sha256:DIGEST]`.

An artifact is one layer. The configuration of the image is the artifact's manifest, so registries can show it, and the
annotations are those of the OCI image specification.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

from dpo_recipes.artifacts.artifact import SUFFIX, Artifact
from dpo_recipes.artifacts.registry_client import OCI_INDEX, OCI_MANIFEST, RegistryClient
from dpo_recipes.errors import SharingError

ARTIFACT_TYPE = "application/vnd.dpo-recipe.artifact.v1"
CONFIG_TYPE = "application/vnd.dpo-recipe.manifest.v1+json"
LAYER_TYPE = "application/vnd.dpo-recipe.artifact.v1.tar"
_FORM = re.compile(
    r"oci://(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*(:\d+)?|\[[0-9a-f:]+\](:\d+)?)"
    r"/(?P<name>[a-z0-9]+([._/-]+[a-z0-9]+)*)(:(?P<tag>\w[\w.-]{0,127}))?(@(?P<digest>sha256:[0-9a-f]{64}))?"
)


class OciSource:
    """One reference to an artifact in a registry."""

    def __init__(self, reference: str) -> None:
        """Raises `SharingError` S401 if it has another form."""
        found = _FORM.fullmatch(reference)
        if found is None:
            raise SharingError.of(
                "S401",
                f"{reference} is no reference to an artifact in a registry",
                why="it has the form oci://REGISTRY/NAME:TAG, or with @sha256:DIGEST; NAME is in lower case",
                fix="for example oci://ghcr.io/someone/recipes/brief:v1",
            )
        self.reference = reference
        self.tag = found["tag"] or ("" if found["digest"] else "latest")
        self.digest: str | None = found["digest"]
        self._client = RegistryClient(found["host"], found["name"], reference)
        self._manifest: bytes | None = None

    @property
    def is_pinned(self) -> bool:
        """Whether it has a digest."""
        return self.digest is not None

    def find_version(self) -> str:
        """The digest of the manifest. Raises `SharingError` S402 to S406."""
        version, self._manifest = self._client.read_manifest(self.digest or self.tag)
        return version

    def fetch(self, version: str, folder: Path) -> Path:
        """Download the layer. Raises `SharingError` S402 to S407 and S413."""
        if self._manifest is None:
            _, self._manifest = self._client.read_manifest(version)
        layer = _find_layer(self._manifest, self.reference)
        target = folder / f"artifact{SUFFIX}"
        self._client.read_blob(layer["digest"], layer["size"], target)
        return target

    def push(self, artifact: Artifact, *, may_move: bool) -> str:
        """Store an artifact under the tag and return the reference with its digest.

        Raises `SharingError` S401 (there is no tag), S402, S403, S404, S411, and S412 if the tag leads to something
        else, unless it may move.
        """
        if self.digest is not None:
            raise SharingError.of(
                "S401",
                f"{self.reference} has a digest, which follows from the content",
                why="an artifact is stored under a tag",
                fix=f"write {self.reference.partition('@')[0]}",
            )
        content = _image_manifest(artifact)
        wanted = f"sha256:{hashlib.sha256(content).hexdigest()}"
        there = self._client.find_digest(self.tag)
        if there not in (None, wanted) and not may_move:
            raise SharingError.of(
                "S412",
                f"{self.reference} exists already",
                why=f"it leads to {there}, and this artifact would be {wanted}",
                fix="choose another tag, or let the tag lead to this artifact with `--move-tag`",
            )
        raw = artifact.manifest_bytes
        self._client.write_blob(io.BytesIO(raw), _digest(raw), len(raw))
        with artifact.path.open("rb") as file:
            self._client.write_blob(file, f"sha256:{artifact.digest}", artifact.num_bytes)
        return f"{self.reference}@{self._client.write_manifest(self.tag, content)}"


def _image_manifest(artifact: Artifact) -> bytes:
    """The manifest of the image, the same for the same artifact."""
    manifest, raw = artifact.manifest, artifact.manifest_bytes
    annotations = {
        "org.opencontainers.image.title": manifest.name,
        "org.opencontainers.image.description": manifest.summary,
        "org.opencontainers.image.licenses": manifest.data_licence,
    }
    layer_annotations = {"org.opencontainers.image.title": f"{manifest.name}{SUFFIX}"}
    plain = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": ARTIFACT_TYPE,
        "config": {"mediaType": CONFIG_TYPE, "digest": _digest(raw), "size": len(raw)},
        "layers": [
            {
                "mediaType": LAYER_TYPE,
                "digest": f"sha256:{artifact.digest}",
                "size": artifact.num_bytes,
                "annotations": layer_annotations,
            }
        ],
        "annotations": {name: value for name, value in annotations.items() if value},
    }
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _find_layer(raw: bytes, reference: str) -> dict[str, Any]:
    """The one layer of an image manifest that is an artifact."""
    try:
        plain = json.loads(raw)
        media_type, layers = plain.get("mediaType"), plain.get("layers") or []
        ours = [layer for layer in layers if layer.get("mediaType") == LAYER_TYPE]
        sizes = [(str(layer["digest"]), int(layer["size"])) for layer in ours]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _no_recipe(reference, "its manifest is damaged") from error
    if len(ours) > 1:
        raise SharingError.of(
            "S407",
            f"there are {len(ours)} artifacts at {reference}",
            why="which of them is meant cannot be told",
            fix="ask its author to push each under a tag of its own",
        )
    if not ours:
        kind = (
            "a list of images" if media_type == OCI_INDEX else f"an image of {', '.join(_types(layers)) or 'nothing'}"
        )
        raise _no_recipe(reference, f"it is {kind}")
    digest, size = sizes[0]
    if not re.fullmatch("sha256:[0-9a-f]{64}", digest) or size < 0:
        raise _no_recipe(reference, "its manifest has no SHA-256 of the artifact")
    return {"digest": digest, "size": size}


def _types(layers: list[Any]) -> list[str]:
    return sorted({str(layer.get("mediaType")) for layer in layers})[:3]


def _no_recipe(reference: str, why: str) -> SharingError:
    return SharingError.of(
        "S413",
        f"{reference} is not a recipe",
        why=why,
        fix="check the name and the tag; recipes are put into a registry with `dpo-recipe push`",
    )


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
