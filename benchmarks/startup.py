"""How long `dpo-recipe validate` takes on a shipped recipe, in fresh processes, beside a bare interpreter.

python benchmarks/startup.py [--repeats 15] [--output benchmarks/results/startup.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from dpo_recipes.hardware.machine import describe_machine, package_versions

PROGRAM = str(Path(sys.executable).with_name("dpo-recipe"))
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "dpo-recipe --version": [PROGRAM, "--version"],
    "dpo-recipe validate quickstart": [PROGRAM, "validate", "quickstart"],
}


def main() -> None:
    """Run all commands in turn, some times; print, or write, median and worst seconds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    walls: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(options.repeats):
        for name, command in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            walls[name].append(time.perf_counter() - started)
    report = {
        "machine": describe_machine(),
        "packages": package_versions(),
        "repeats": options.repeats,
        "seconds": {
            name: {"median": round(statistics.median(measured), 3), "worst": round(max(measured), 3)}
            for name, measured in walls.items()
        },
    }
    text = json.dumps(report, indent=2) + "\n"
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
