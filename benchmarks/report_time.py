"""Measures the time and the size of `dpo-recipe report` on many synthetic runs, in fresh processes.

    python benchmarks/report_time.py [--runs 200] [--repeats 3] [--output benchmarks/results/report_time.json]

Each run has 100 logged steps, 50 evaluations and sample answers; no two have the same settings.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from synthetic_runs import make_recipe, make_run

from dpo_recipes.hardware.machine import describe_machine, package_versions


def make_runs(folder: Path, count: int) -> list[Path]:
    """`count` finished runs with learning rates, betas and ranks drawn at random; their losses follow from these."""
    draw, paths = random.Random(0), []
    for number in range(count):
        rate, beta, rank = 10 ** draw.uniform(-6, -4), draw.choice([0.05, 0.1, 0.2]), draw.choice([8, 16, 32])
        recipe = make_recipe(
            f"sweep-{number:03}",
            objective={"beta": beta},
            training={"learning_rate": float(f"{rate:.4e}")},
            model={"adapter": {"kind": "lora", "r": rank}},
        )
        loss = 0.4 + abs(rate - 2e-5) * 2000 + beta / 2 + draw.gauss(0, 0.01)
        sample = {"prompt": "Why is the sky blue? " * 20, "base": "Because. " * 60, "tuned": "Rayleigh. " * 20}
        paths.append(
            make_run(
                folder,
                recipe,
                digits=f"{number:06}",
                every=1,
                metrics={"eval_loss": loss, "eval_rewards/accuracies": min(1.0, max(0.0, 1.2 - loss))},
                samples=[sample] * 4,
            ).path
        )
    return paths


def measure(paths: list[Path], output: Path) -> tuple[float, float]:
    """The seconds of wall and of processor time that the command takes for an HTML page."""
    program = str(Path(sys.executable).with_name("dpo-recipe"))
    started, used = time.perf_counter(), _children_s()
    command = [program, "report", *map(str, paths), "--output", str(output)]
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started, _children_s() - used


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Make the runs, measure, and print or write the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    load_average = round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory() as place:
        paths = make_runs(Path(place), options.runs)
        page = Path(place) / "comparison.html"
        walls, processors = zip(*(measure(paths, page) for _ in range(options.repeats)), strict=True)
        size = page.stat().st_size
    report = {
        "machine": describe_machine(),
        "packages": package_versions(),
        "load_average": load_average,
        "runs": options.runs,
        "seconds": {"best": round(min(walls), 2), "worst": round(max(walls), 2)},
        "processor_seconds": {"best": round(min(processors), 2), "worst": round(max(processors), 2)},
        "page_bytes": size,
    }
    text = json.dumps(report, indent=2) + "\n"
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
