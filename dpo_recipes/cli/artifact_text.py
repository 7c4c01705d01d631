"""Artifacts in a terminal: what they hold, and what running them would do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from dpo_recipes.artifacts.artifact import Artifact
from dpo_recipes.artifacts.signature import Signer
from dpo_recipes.errors import printable
from dpo_recipes.formats import format_bytes, format_duration
from dpo_recipes.jobs.inspection import Inspection

_SHOWN = 4
_NOUNS = {
    "recipe": "recipe",
    "lock": "lock",
    "template": "template",
    "data": "data file",
    "result": "result file",
    "adapter": "adapter file",
}


def describe_artifact(artifact: Artifact) -> Iterator[str]:
    """What an artifact holds, in two or three lines."""
    yield from map(printable, _artifact_lines(artifact))


def _artifact_lines(artifact: Artifact) -> Iterator[str]:
    manifest = artifact.manifest
    roles = Counter(entry.role for entry in manifest.files.values())
    counts = ", ".join(f"{count} {_NOUNS[role]}{'s' * (count > 1)}" for role, count in roles.items())
    yield f"artifact  {_size(artifact.num_bytes)}, {counts}"
    yield f"digest    sha256:{artifact.digest}"
    if manifest.data_licence is not None:
        yield f"licence   of the data in it: {manifest.data_licence}"
    for need in manifest.needs:
        size = f", {_size(need.bytes)}" if need.bytes is not None else ""
        yield f"needs     {need.path.partition('/')[2]} ({need.kind}{size}), which is not in it"


def describe_inspection(found: Inspection, artifact: Artifact | None, signer: Signer | None) -> Iterator[str]:
    """What running a recipe would do, line by line. A stranger may have written parts of it."""
    yield from map(printable, _inspection_lines(found, artifact, signer))


def _inspection_lines(found: Inspection, artifact: Artifact | None, signer: Signer | None) -> Iterator[str]:
    yield f"recipe    {found.name}{': ' if found.summary else ''}{found.summary}"
    if artifact is not None:
        yield from describe_artifact(artifact)
        yield f"signer    {signer}"
    if found.steps:
        yield f"steps     {', '.join(found.steps)}"
    yield f"trains    {_some(found.objectives)} on {_some(found.models)}"
    yield f"data      {_some(found.data)}"
    yield f"network   {_some(found.network)}"
    yield f"asks for  {_some(found.asks_for)}{', which runs only if you allow it' if found.asks_for else ''}"
    if found.not_planned is not None:
        yield f"here      memory, time and disk use are unknown: {found.not_planned}"
    else:
        fits = "fits" if found.fits else "does not fit"
        of = f" of {format_bytes(found.device_bytes)}" if found.device_bytes is not None else ""
        yield f"memory    {format_bytes(found.peak_bytes)}{of} here: it {fits}"
        time = (
            "unknown before the data are read" if found.time_s is None else f"at most {format_duration(found.time_s)}"
        )
        yield f"time      {time}"
        yield f"disk      {format_bytes(found.disk_bytes)}"
    for error in found.errors:
        yield f"error     {error}"


def plain_artifact(artifact: Artifact, signer: Signer) -> dict[str, Any]:
    """An artifact as plain data."""
    return {
        "path": str(artifact.path),
        "digest": f"sha256:{artifact.digest}",
        "bytes": artifact.num_bytes,
        "signer": signer.to_json(),
        "manifest": artifact.manifest.model_dump(mode="json"),
    }


def _size(num_bytes: int) -> str:
    if num_bytes < 10_000:
        return f"{num_bytes:,} bytes"
    return f"{num_bytes / 1e3:,.0f} kB" if num_bytes < 1e7 else f"{num_bytes / 1e6:,.0f} MB"


def _some(texts: list[str]) -> str:
    shown = ", ".join(texts[:_SHOWN]) or "nothing"
    return f"{shown} and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else shown
