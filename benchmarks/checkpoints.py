"""Measures the cost of checkpoints: how long training waits for each one, and its size.

    python benchmarks/checkpoints.py [--steps 12] [--output benchmarks/results/checkpoints.json]

The quickstart's SmolLM2-135M on its own pairs, LoRA and full fine-tuning, once without checkpoints and once with one
after every second step, far more often than usual, to have enough to measure. `checkpoints_waited_s` of a run is the
time for which training waited; sealing (checksums, writing to disk, reading back) continues in the background and
affects only the time of the steps.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from dpo_recipes.hardware.machine import describe_machine, package_versions
from dpo_recipes.recipe.validate import validate
from dpo_recipes.shipped import recipe_paths
from dpo_recipes.workflow import run_recipe

EVERY = 2
ADAPTERS = {"lora": [], "full": ["model.adapter=null", "training.learning_rate=1e-6"]}


def measure(adapter: str, steps: int, folder: Path, *, saves: bool) -> dict[str, Any]:
    """One run."""
    checkpoints = f"checkpoints={{save_steps: {EVERY if saves else steps + 1}, save_total_limit: 1}}"
    overrides = [
        *ADAPTERS[adapter], checkpoints, f"training.max_steps={steps}", f"output_dir={folder}",
        "data.eval.sources[0].limit=4", "evaluation.num_samples=0",
    ]  # fmt: skip
    finished = run_recipe(validate(recipe_paths()["quickstart"], overrides), lambda event: None, resume=False)
    assert finished is not None
    files = [path for path in finished.run.checkpoints.rglob("*") if path.is_file()]
    return {
        "checkpoints": steps // EVERY if saves else 0,
        "train_runtime_s": finished.result.train_runtime_s,
        "waited_s": finished.result.checkpoints_waited_s,
        "bytes": sum(path.stat().st_size for path in files),
    }


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    report: dict[str, Any] = {"machine": describe_machine(), "packages": package_versions(), "steps": options.steps}
    for adapter in ADAPTERS:
        with tempfile.TemporaryDirectory() as name:
            without = measure(adapter, options.steps, Path(name) / "without", saves=False)
            with_ = measure(adapter, options.steps, Path(name) / "with", saves=True)
        waited_s = with_["waited_s"] / with_["checkpoints"]
        report[adapter] = {"without": without, "with": with_, "waited_s_each": round(waited_s, 3)}
        print(f"{adapter}: {waited_s:.2f} s each for {with_['bytes'] / 1e6:.0f} MB; {without} {with_}", flush=True)
    if options.output:
        options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
