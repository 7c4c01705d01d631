"""Where a run came from: the reference and the digest of its artifact, which its directory keeps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpo_recipes.artifacts.references import FoundRecipe
from dpo_recipes.run_dir import RunDirectory, write_json, written_to

OnEvent = Callable[[dict[str, Any]], None]


def noting_origin(found: FoundRecipe, on_event: OnEvent) -> OnEvent:
    """A handler of events that also writes the origin into the directory of each run that starts, if it is an
    artifact's."""
    artifact = found.artifact
    if artifact is None:
        return on_event
    origin = {"reference": found.reference, "digest": f"sha256:{artifact.digest}"}

    def handle(event: dict[str, Any]) -> None:
        if event["event"] == "run":
            run = RunDirectory(Path(event["dir"]))
            with written_to(run):
                write_json(run.origin, origin)
        on_event(event)

    return handle


def read_origin(run: RunDirectory) -> dict[str, str] | None:
    """The reference and the digest that a run came from; None for a recipe that was not packed."""
    try:
        plain = json.loads(run.origin.read_text(encoding="utf-8"))
        return {"reference": str(plain["reference"]), "digest": str(plain["digest"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None
