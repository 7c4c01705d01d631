"""Measures how the cost of a job grows with pairs, lengths, batch and model, for our engine and TRL's own trainer.

    OMP_NUM_THREADS=1 python benchmarks/growth.py --output benchmarks/results/growth.json
    python benchmarks/growth.py --plot benchmarks/results/growth.json docs/images/growth.png

One quantity is varied at a time, the others are those of `BASE`: synthetic pairs, randomly initialized Llama models of
8 layers, LoRA, 32 bits, no checkpointing. Each point is a fresh process for each side (benchmarks/throughput.py). The
results are its processor seconds, including the reference pass, and its peak memory. Points that are already in the
output are not measured again. Plotting needs the extra `benchmarks`.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from memory import save_base
from throughput import measure

from dpo_recipes.hardware.machine import describe_machine, package_versions
from dpo_recipes.recipe.schema import Recipe

BASE = {"pairs": 16, "prompt": 256, "answer": 64, "batch": 4, "hidden": 384}
AXES = {
    "pairs": (8, 16, 32, 64),
    "prompt": (16, 64, 256, 512, 1024),
    "answer": (16, 64, 128, 256),
    "batch": (1, 2, 4, 8),
    "hidden": (192, 384, 576, 768),
}
LABELS = {
    "pairs": "pairs",
    "prompt": "tokens of the prompt",
    "answer": "tokens of each answer",
    "batch": "pairs of a micro-batch",
    "hidden": "width of the model",
}
SIDES = ("ours", "trl")


def build_recipe(point: dict[str, int], base: Path) -> Recipe:
    """The job of a point."""
    return Recipe.model_validate({
        "schema": 1, "name": "growth", "chat_template": "plain",
        "model": {"path": str(base), "adapter": {"kind": "lora", "r": 16, "alpha": 32}},
        "data": {"train": [{"path": "owner/synthetic"}], "max_length": point["prompt"] + point["answer"]},
        "training": {
            "num_epochs": 1, "micro_batch_size": point["batch"], "gradient_accumulation_steps": 1,
            "learning_rate": 5e-6, "lr_scheduler": "constant", "warmup_ratio": 0.0, "logging_steps": 1,
        },
    })  # fmt: skip


def make_pairs(point: dict[str, int]) -> list[dict[str, Any]]:
    """Random tokens."""
    draw = random.Random(0)

    def ids(count: int) -> list[int]:
        return [draw.randrange(2, 16_000) for _ in range(count)]

    return [
        {"prompt_ids": ids(point["prompt"]), "answer_ids": [ids(point["answer"]) for _ in range(2)]}
        for _ in range(point["pairs"])
    ]


def measure_point(point: dict[str, int]) -> dict[str, Any]:
    """Measure both sides at one point."""
    hidden = point["hidden"]
    config = dict(
        model_type="llama", vocab_size=16_000, hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=8,
        num_attention_heads=hidden // 64, num_key_value_heads=hidden // 64, tie_word_embeddings=True,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_base(config, folder / "base")
        recipe = build_recipe(point, folder / "base")
        (folder / "recipe.json").write_text(recipe.model_dump_json(by_alias=True))
        (folder / "pairs.json").write_text(json.dumps(make_pairs(point)))
        sides = {side: measure(side, recipe, folder) for side in SIDES}
    ours, trls = (sides[side].pop("losses") for side in SIDES)
    apart = max(abs(mine - theirs) / abs(theirs) for mine, theirs in zip(ours, trls, strict=True))
    return {"point": point, "sides": sides, "loss_max_rel_diff": apart}


def along(axis: str, points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points that differ from `BASE` only in this quantity, in ascending order."""
    others = {name: value for name, value in BASE.items() if name != axis}
    return sorted((p for p in points if others.items() <= p["point"].items()), key=lambda p: p["point"][axis])


def plot(result: dict[str, Any], to: Path) -> None:
    """Plot processor seconds (top) and peak memory (bottom), with a column for each measured axis."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    varied = {axis: points for axis in AXES if len(points := along(axis, result["points"])) > 1}
    figure, rows = plt.subplots(2, len(varied), figsize=(3.4 * len(varied), 6.4), sharey="row", layout="constrained")
    for column, (axis, points) in enumerate(varied.items()):
        xs = [p["point"][axis] for p in points]
        for side, style in zip(SIDES, ("o-", "s--"), strict=True):
            seconds = [p["sides"][side]["cpu_s"] / p["point"]["pairs"] for p in points]
            gib = [p["sides"][side]["peak_bytes"] / 2**30 for p in points]
            label = {"ours": "dpo-recipe", "trl": "TRL's DPOTrainer"}[side]
            rows[0][column].plot(xs, seconds, style, label=label)
            rows[1][column].plot(xs, gib, style, label=label)
        for row in (0, 1):
            rows[row][column].set_xscale("log", base=2)
            rows[row][column].set_xticks(xs, [str(x) for x in xs], minor=False)
            rows[row][column].grid(alpha=0.3)
        rows[1][column].set_xlabel(LABELS[axis])
    rows[0][0].set_yscale("log", base=2)
    rows[0][0].yaxis.set_major_formatter("{x:g}")
    rows[0][0].set_ylabel("processor seconds a pair")
    rows[1][0].set_ylabel("peak memory, GiB")
    rows[1][0].set_ylim(bottom=0)
    rows[0][0].legend()
    base = ", ".join(f"{LABELS[name]} {value}" for name, value in BASE.items())
    title = f"One quantity is varied; the others are {base}. {result['machine']['machine']}"
    figure.suptitle(textwrap.fill(title, 45 * len(varied)), fontsize=10)
    figure.savefig(to, dpi=110)


def main() -> None:
    """Measure the missing points, or plot the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="the results file")
    parser.add_argument("--plot", type=Path, nargs=2, metavar=("RESULTS", "PNG"))
    options = parser.parse_args()
    if options.plot:
        plot(json.loads(options.plot[0].read_text()), options.plot[1])
        return
    points = json.loads(options.output.read_text())["points"] if options.output and options.output.exists() else []
    for axis, values in AXES.items():
        for value in values:
            point = {**BASE, axis: value}
            if any(known["point"] == point for known in points):
                continue
            points.append(measure_point(point))
            ours, trls = (points[-1]["sides"][side]["cpu_s"] for side in SIDES)
            print(f"{axis:8}{value:6}: {ours:7.1f} s against {trls:7.1f} s", flush=True)
            if options.output:
                result = {"machine": describe_machine(), "packages": package_versions(), "points": points}
                options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
