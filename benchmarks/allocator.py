"""Measures the effect of the CPU allocator settings of launch/local.py on a job: time, page faults and peak memory.

    OMP_NUM_THREADS=1 python benchmarks/allocator.py [--repeats 3] [--output benchmarks/results/allocator.json]

The job is a point of the grid of benchmarks/memory.py: a randomly initialized Llama, LoRA, four micro-batches of three
pairs of 512 tokens, including the reference pass. Each measurement is a fresh process; settings alternate, and medians
are reported.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from memory import MODELS, measure, save_base

from dpo_recipes.hardware.machine import describe_machine, package_versions
from dpo_recipes.launch.local import cpu_allocator

SETTINGS = {"default": {}, "dpo-recipe": cpu_allocator()}
POINT = {"model": "llama", "tuning": "lora", "length": 512, "batch": 3, "checkpointing": False, "device": "cpu"}


def measure_job(folder: str) -> dict[str, float]:
    """Train in this process. Returns the seconds of training and the resources of the whole process."""
    peaks: dict[str, Any] = measure({**POINT, "folder": folder})
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "train_s": peaks["train_s"],
        "user_s": used.ru_utime,
        "system_s": used.ru_stime,
        "minor_faults": used.ru_minflt,
        "peak_bytes": max(peaks["peaks"].values()),
    }


def main() -> None:
    """Measure the settings in turn, and print or write the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure_job(options.measure)))
        return
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in SETTINGS}
    with tempfile.TemporaryDirectory() as name:
        save_base(MODELS["llama"], Path(name) / "base")
        for _ in range(options.repeats):
            for setting, variables in SETTINGS.items():
                command = [sys.executable, __file__, "--measure", str(Path(name) / "base")]
                done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(f"{setting} failed:\n{done.stderr[-3000:]}")
                runs[setting].append(json.loads(done.stdout.splitlines()[-1]))
    medians = {
        name: {key: round(statistics.median(run[key] for run in measured), 3) for key in measured[0]}
        for name, measured in runs.items()
    }
    report = {"machine": describe_machine(), "packages": package_versions(), "repeats": options.repeats, **medians}
    text = json.dumps(report, indent=2) + "\n"
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
