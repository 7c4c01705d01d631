"""Measures wall and processor time of `dpo-recipe validate` on a shipped recipe, in fresh processes.

    python benchmarks/startup.py [--repeats 15] [--output benchmarks/results/startup.json]

They are compared with a bare interpreter, with the import of the two libraries that every check needs, and with the
import of what it uses from them: pydantic imports most of its modules on the first use of a name.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from dpo_recipes.hardware.machine import describe_machine, package_versions

PROGRAM = str(Path(sys.executable).with_name("dpo-recipe"))
IMPORTS = 'python -c "import pydantic, typer"'
NAMES = 'python -c "import typer._adapters, yaml; from pydantic import BaseModel"'
VALIDATE = "dpo-recipe validate quickstart"
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    IMPORTS: [sys.executable, "-c", "import pydantic, typer"],
    NAMES: [sys.executable, "-c", "import typer._adapters, yaml; from pydantic import BaseModel"],
    "dpo-recipe --version": [PROGRAM, "--version"],
    VALIDATE: [PROGRAM, "validate", "quickstart"],
}


def main() -> None:
    """Run all commands in turn, `--repeats` times; print or write median and worst seconds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    load_average = round(os.getloadavg()[0], 1)  # on a busy machine, only processor times mean something
    walls: dict[str, list[float]] = {name: [] for name in COMMANDS}
    processors: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(options.repeats):
        for name, command in COMMANDS.items():
            started, used = time.perf_counter(), _children_s()
            subprocess.run(command, check=True, capture_output=True)
            walls[name].append(time.perf_counter() - started)
            processors[name].append(_children_s() - used)
    medians = {name: statistics.median(measured) for name, measured in processors.items()}
    report = {
        "machine": describe_machine(),
        "packages": package_versions(),
        "repeats": options.repeats,
        "load_average": load_average,
        "seconds": {
            name: {"median": round(statistics.median(measured), 3), "worst": round(max(measured), 3)}
            for name, measured in walls.items()
        },
        "processor_seconds": {name: round(median, 3) for name, median in medians.items()},
        "validate_to_imports": round(medians[VALIDATE] / medians[IMPORTS], 2),
        "validate_to_used_names": round(medians[VALIDATE] / medians[NAMES], 2),
    }
    text = json.dumps(report, indent=2) + "\n"
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


def _children_s() -> float:
    """The processor time of all ended child processes, in seconds."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
