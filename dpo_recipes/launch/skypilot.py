"""A recipe as a SkyPilot task: `sky launch FILE` finds a machine with the recipe's GPU and runs it there.

Checked against the task schema of SkyPilot 0.14 (tests/schemas/skypilot_task.json); SkyPilot itself is not needed.
"""

from __future__ import annotations

import re
import shlex
from typing import Any

from dpo_recipes.errors import RecipeError
from dpo_recipes.launch.manifest import ExportRequest, dump_documents, requirements, travelling_recipe

FOLDER = "~/dpo-recipe"
# SkyPilot's names of accelerators, by ours: https://docs.skypilot.co, `sky gpus list`.
ACCELERATORS = {
    "a40-48gb": "A40",
    "a100-40gb": "A100",
    "a100-80gb": "A100-80GB",
    "h100-80gb": "H100",
    "h200-141gb": "H200",
    "l4-24gb": "L4",
    "l40s-48gb": "L40S",
    "rtx3060-12gb": "RTX3060",
    "rtx3090-24gb": "RTX3090",
    "rtx4090-24gb": "RTX4090",
    "rtx5090-32gb": "RTX5090",
    "t4-16gb": "T4",
    "v100-16gb": "V100",
    "v100-32gb": "V100-32GB",
}


def export(request: ExportRequest) -> str:
    """The text of the task file. Raises `RecipeError` U422 if the recipe names no device that can be rented."""
    return dump_documents(task(request))


def task(request: ExportRequest) -> dict[str, Any]:
    """The task as plain data."""
    text, files = travelling_recipe(request)
    made: dict[str, Any] = {
        "name": re.sub(r"[^a-z0-9-]+", "-", request.recipe.name.lower()).strip("-"),
        "resources": _resources(request),
        "num_nodes": request.num_nodes,
    }
    if files:
        made["file_mounts"] = {f"{FOLDER}/{name}": str(path) for name, path in files.items()}
    end = _delimiter(text)
    return {
        **made,
        "setup": (
            f"pip install {shlex.join(requirements(request.recipe))}\n"
            f"mkdir -p {FOLDER}\ncat >{FOLDER}/recipe.yaml <<'{end}'\n{text}{end}\n"
        ),
        "run": _run(request),
    }


def _resources(request: ExportRequest) -> dict[str, Any]:
    name, device = request.recipe.hardware.profile, request.device
    if request.gpus_per_node == 0:
        return {"cpus": "8+", "memory": f"{device.memory_bytes // 2**30 if device else 16}+"}
    if name is None or name.lower() not in ACCELERATORS:
        raise RecipeError.of(
            "U422",
            f"`{name}` cannot be rented" if name else "the recipe does not say which GPU it is for",
            why=f"SkyPilot finds machines by their GPU; it has {', '.join(ACCELERATORS)}",
            fix="add `--set hardware.profile=a40-48gb`, for example",
        )
    return {"accelerators": f"{ACCELERATORS[name.lower()]}:{request.gpus_per_node}"}


def _run(request: ExportRequest) -> str:
    lines = [f"cd {FOLDER}"]
    command = "dpo-recipe run recipe.yaml"
    if request.num_nodes > 1:
        lines.append('first=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)')
    for flag in request.run_flags('"$first"'):
        command += f" {flag}"
    return "\n".join([*lines, command]) + "\n"


def _delimiter(text: str) -> str:
    """A line that does not occur in the text, as the end of a here-document."""
    end = "END_OF_RECIPE"
    while end in text:
        end += "_"
    return end
