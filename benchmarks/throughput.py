"""Compares our engine with plain TRL on the same pairs: speed, peak memory and losses.

    python benchmarks/throughput.py --data harmless-base.jsonl.gz --checkpointing --steps 40
        [--objective dpo] [--model quickstart] [--batch 4] [--max-length 512] [--epochs 1] [--adapter lora|full]
        [--against trl,trl-best] [--repeats 1] [--json] [--output benchmarks/results/throughput.json]

The sides alternate, each in a fresh process. `--data` is a file in any format that dpo-recipe reads, or the name of
synthetic pairs of random tokens: `long-prompts` (1024 tokens, answers of 64) or `nothing-shared` (no prompts, answers
of one length).

- `ours`: the trainer as the worker runs it, in a worker's environment from launch/local.py (on a CPU with its allocator
  settings), with an empty cache.
- `trl`: TRL's DPOTrainer with its own defaults: live reference, padding collator, random batches.
  With another `--objective`, TRL's trainer for it with its defaults.
- `trl-packed`: TRL's SFTTrainer with `packing`. Its batches differ, so its losses are not compared.
- `trl-best`: DPO with a precomputed reference and batches grouped by length. Its batches differ, so its losses are
  not compared.

The time starts when the trainer is built and ends with the last step; it includes the reference pass and excludes the
loading of libraries and model. `cpu_time_ratio` compares processor seconds, which are more reliable than wall time on a
busy CPU; set OMP_NUM_THREADS=1 for this, because waiting threads count as busy. Both sides use the precision that
dpo-recipe chooses for the device.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from dpo_recipes.cache import cache_folder
from dpo_recipes.hardware.machine import describe_machine, num_cores, package_versions
from dpo_recipes.launch.local import worker_environment
from dpo_recipes.recipe.load import load_file
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.shipped import recipe_paths

SIDE = Path(__file__).with_name("throughput_side.py")
REFEREED: dict[str, dict[str, Any]] = {"orpo": {"nll_on_prompt": True}}
"""Parameters with which an objective computes what TRL's trainer for it computes."""
SYNTHETIC = {"long-prompts": (1024, 64), "nothing-shared": (0, 160)}


def build_recipe(options: argparse.Namespace) -> Recipe:
    """The job of both sides."""
    model = load_file(recipe_paths()["quickstart"]).data["model"]
    if options.model != "quickstart":
        model = {"path": options.model}
    model["adapter"] = None if options.adapter == "full" else {"kind": "lora", "r": 16, "alpha": 32}
    if options.adapter == "qlora":
        model["quantization"] = {"bits": 4}
    data = str(Path(options.data).resolve()) if options.data not in SYNTHETIC else "owner/synthetic"
    return Recipe.model_validate({
        "schema": 1, "name": "throughput", "model": model,
        "data": {"train": [{"path": data}], "max_length": options.max_length, "on_bad_row": "drop"},
        "objective": {"kind": options.objective, **REFEREED.get(options.objective, {})},
        "training": {
            "num_epochs": options.epochs, "micro_batch_size": options.batch, "gradient_accumulation_steps": 1,
            "learning_rate": 5e-7 if options.adapter == "full" else 5e-6, "lr_scheduler": "constant",
            "warmup_ratio": 0.0, "gradient_checkpointing": options.checkpointing, "logging_steps": 1,
        },
    })  # fmt: skip


def tokenized(recipe: Recipe, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The pairs for the steps of one epoch, the same for all sides."""
    needed = options.steps * options.batch
    if options.data in SYNTHETIC:
        prompt, answer = SYNTHETIC[options.data]
        draw = random.Random(0)
        pairs = [
            [[draw.randrange(100, 40_000) for _ in range(n)] for n in (prompt, answer, answer)] for _ in range(needed)
        ]
        return [{"prompt_ids": prompt_ids, "answer_ids": answer_ids} for prompt_ids, *answer_ids in pairs]
    from dpo_recipes.prepared_data import prepare_data

    pairs = prepare_data(recipe, lambda *_: None, trust_remote_code=False).splits.for_trainer("train")
    return pairs.shuffle(seed=0).select(range(min(needed, len(pairs)))).to_list()


def measure(side: str, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Measure one side in a fresh process."""
    environment = worker_environment(recipe) if side == "ours" else dict(os.environ)
    # A separate cache that contains only the models, so that no reference is cached from an earlier run.
    with tempfile.TemporaryDirectory() as cache:
        link_models(Path(cache))
        environment["DPO_RECIPE_CACHE"] = cache
        return _run_side(side, folder, environment)


def link_models(cache: Path) -> None:
    """Share the models of this machine's cache with a new one, to avoid fetching them again."""
    models = cache_folder() / "models"
    models.mkdir(parents=True, exist_ok=True)  # no models yet on a new machine
    (cache / "models").symlink_to(models)


def _run_side(side: str, folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(SIDE), side, str(folder)], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The medians of each side, and the ratios to ours."""
    sides = {
        side: {key: statistics.median(run[key] for run in measured) for key in measured[0] if key != "losses"}
        for side, measured in runs.items()
    }
    ours, report = sides["ours"], {"sides": sides}
    for side in (side for side in sides if side != "ours"):
        prefix = "" if side == "trl" else side.removeprefix("trl-") + "_"
        report[f"{prefix}speedup"] = round(ours["pairs_per_second"] / sides[side]["pairs_per_second"], 3)
        # Of a pair, because the steps of packed rows are fewer and those of `--best-steps` see fewer pairs.
        of_pair = [_cpu_seconds_of_pair(row) for row in (ours, sides[side])]
        report[f"{prefix}cpu_time_ratio"] = round(of_pair[0] / of_pair[1], 3)
        report[f"{prefix}memory_ratio"] = round(ours["peak_bytes"] / sides[side]["peak_bytes"], 3)
    if "trl" in runs:
        losses = zip(runs["ours"][0]["losses"], runs["trl"][0]["losses"], strict=True)
        report["loss_max_rel_diff"] = max(abs(mine - theirs) / abs(theirs) for mine, theirs in losses)
    return {**report, "steps": len(runs["ours"][0]["losses"])}


def _cpu_seconds_of_pair(side: dict[str, float]) -> float:
    num_pairs = side["pairs_per_second"] * (side["reference_s"] + side["training_s"])
    return side["cpu_s"] / num_pairs


def print_table(report: dict[str, Any]) -> None:
    """Print a report as a table."""
    print(f"{report['machine']}; {report['steps']} steps; {report['job']}")
    print(f"{'':12}{'pairs/s':>10}{'reference s':>13}{'training s':>12}{'CPU s':>9}{'peak GiB':>10}")
    for side, row in report["sides"].items():
        memory = row["peak_bytes"] / 2**30
        times = f"{row['reference_s']:>13.1f}{row['training_s']:>12.1f}{row['cpu_s']:>9.1f}"
        print(f"{side:12}{row['pairs_per_second']:>10.3f}{times}{memory:>10.2f}")
    for name in (name for name in report if "speedup" in name or "ratio" in name or "diff" in name):
        print(f"{name}: {report[name]:.3g}")


def main() -> None:
    """Measure all sides in turn, `--repeats` times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="quickstart", help="the quickstart's SmolLM2-135M, a folder, or a hub id")
    parser.add_argument("--objective", default="dpo", help="its `kind`")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=40, help="steps of one epoch")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--adapter", choices=("lora", "qlora", "full"), default="lora")
    parser.add_argument("--against", default="trl", help="comma-separated: trl, trl-best, trl-packed")
    parser.add_argument("--best-steps", type=int, help="fewer steps for trl-best, whose speed alone is compared")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--output", type=Path, help="a results file; this job's entry in it is replaced")
    options = parser.parse_args()
    recipe = build_recipe(options)
    sides = ["ours", *options.against.split(",")]
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "recipe.json").write_text(recipe.model_dump_json(by_alias=True))
        (folder / "pairs.json").write_text(json.dumps(tokenized(recipe, options)))
        if options.best_steps:
            (folder / "limits.json").write_text(json.dumps({"trl-best": options.best_steps}))
        for _ in range(options.repeats):
            for side in sides:
                runs[side].append(measure(side, recipe, folder))
                print(f"{side}: {runs[side][-1]['pairs_per_second']:.3f} pairs/s", file=sys.stderr)
    keys = ("objective", "model", "batch", "max_length", "epochs", "checkpointing", "adapter")
    job = {"data": Path(options.data).name, **{key: getattr(options, key) for key in keys}}
    job["threads"] = int(os.environ.get("OMP_NUM_THREADS", num_cores()))
    described = describe_machine()
    report = {"job": job, "machine": described["machine"], "packages": package_versions(), **compare(runs)}
    if options.output:
        save(report, options.output)
    if options.json:
        print(json.dumps(report))
    else:
        print_table(report)


def save(report: dict[str, Any], path: Path) -> None:
    """Add the report to a results file; it replaces an earlier one of the same job."""
    others = json.loads(path.read_text()) if path.exists() else []
    kept = [other for other in others if other["job"] != report["job"]]
    path.write_text(json.dumps([*kept, report], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
