"""Compares predicted and measured peak memory of training over a grid of models, tunings, lengths and batches.

    python benchmarks/memory.py [--output benchmarks/results/memory.json] [--only llama,qwen2] [--fraction 1.0]
    python benchmarks/memory.py --objectives [--output benchmarks/results/memory.json]
    python benchmarks/memory.py --predict FILE [FILE ...] --output benchmarks/results/memory.json

Each point is a fresh process that builds a randomly initialized model like a run, computes the reference and trains two
optimizer steps of two micro-batches each. The measured value is the peak resident set (VmHWM) on a CPU, and
`max_memory_reserved` on CUDA (`--fraction` simulates a smaller card with `set_per_process_memory_fraction`). The
prediction is that of `dpo-recipe plan`. An error is predicted / measured - 1; a negative error is an under-prediction.

The whole grid takes hours and trains DPO. `--objectives` measures 24 points of the other objectives instead. Points
that are already in the output are not measured again. `--predict` merges the points of result files, for example from
several machines, with the predictions of this version.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dpo_recipes.hardware.machine import describe_machine, package_versions
from dpo_recipes.launch.local import cpu_allocator
from dpo_recipes.objectives import objective_of
from dpo_recipes.recipe.schema import Recipe

MODELS = {
    "llama": dict(
        model_type="llama", vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=16,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
    ),
    "qwen2": dict(
        model_type="qwen2", vocab_size=64000, hidden_size=640, intermediate_size=2560, num_hidden_layers=8,
        num_attention_heads=10, num_key_value_heads=2, tie_word_embeddings=True,
    ),
    "gpt2": dict(model_type="gpt2", vocab_size=50257, n_embd=768, n_layer=8, n_head=12, n_positions=2048),
    "mistral": dict(
        model_type="mistral", vocab_size=32000, hidden_size=768, intermediate_size=2048, num_hidden_layers=8,
        num_attention_heads=12, num_key_value_heads=4, sliding_window=512,
    ),
    "gemma3": dict(
        model_type="gemma3_text", vocab_size=48000, hidden_size=640, intermediate_size=2048, num_hidden_layers=9,
        num_attention_heads=4, num_key_value_heads=1, head_dim=160, sliding_window=256,
    ),
    "bert": dict(
        model_type="bert", vocab_size=30522, hidden_size=512, intermediate_size=2048, num_hidden_layers=8,
        num_attention_heads=8,
    ),
}  # fmt: skip
DECODERS = [name for name in MODELS if name != "bert"]
TUNINGS = ("full", "lora", "qlora")
LENGTHS = (192, 512, 1024)
BATCHES = (1, 2)
OBJECTIVES = {"orpo": ("llama", "gpt2"), "simpo": ("llama", "gpt2"), "kto": ("llama", "gpt2"), "sft": ("llama", "gpt2"),
              "reward": ("llama", "gpt2", "bert", "bert")}  # fmt: skip
"""The models of the points of each other objective. Each is measured with full fine-tuning and with LoRA; every
second one has longer rows."""


def make_recipe(point: dict[str, Any]) -> Recipe:
    """The recipe of one point."""
    device = point["device"]
    model: dict[str, Any] = {"path": point["folder"], "dtype": "bfloat16" if device == "cuda" else "float32"}
    if point["tuning"] != "full":
        model["adapter"] = {"kind": "lora"}
    if point["tuning"] == "qlora":
        model["quantization"] = {"bits": 4}
    return Recipe.model_validate(
        {
            "schema": 1,
            "name": "memory",
            "model": model,
            "data": {"train": [{"path": "unused.jsonl"}], "max_length": point["length"]},
            "objective": {"kind": point.get("objective", "dpo")},
            "training": {
                "micro_batch_size": point["batch"],
                "gradient_accumulation_steps": 2,
                "max_steps": 2,
                "gradient_checkpointing": point["checkpointing"],
            },
            "hardware": {"device": device},
        }
    )


def save_base(config: dict[str, Any], folder: Path) -> None:
    """A randomly initialized model with a tokenizer that a run accepts."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    kind = AutoModelForMaskedLM if config["model_type"] == "bert" else AutoModelForCausalLM
    kind.from_config(AutoConfig.for_model(**config)).save_pretrained(folder)
    save_tokenizer(folder)


def save_tokenizer(folder: Path) -> None:
    """A tokenizer of two words."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"<eos>": 0, "<unk>": 1}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<eos>").save_pretrained(folder)


def pair_sizes(length: int) -> tuple[int, int, int]:
    """The number of tokens in prompt, chosen and rejected answer of a pair: its longer sequence has `length` tokens,
    half of them prompt."""
    return length // 2, length - length // 2, length // 3


def make_rows(recipe: Recipe, vocab_size: int, length: int, count: int) -> Any:
    """Random rows with the sizes of `pair_sizes`, with as many answers as the objective computes."""
    import random

    from datasets import Dataset

    draw = random.Random(0)
    objective, sizes = objective_of(recipe), pair_sizes(length)
    sizes = sizes[: 1 + objective.batch_shape(recipe.objective).num_answers]
    rows = [[[draw.randrange(2, vocab_size) for _ in range(n)] for n in sizes] for _ in range(count)]
    labels = [{"label": index % 2 > 0} if objective.rows == "labelled" else {} for index in range(count)]
    columns = zip(rows, labels, strict=True)
    return Dataset.from_list(
        [{"prompt_ids": prompt, "answer_ids": answers, **label} for (prompt, *answers), label in columns]
    )


def measure(point: dict[str, Any]) -> dict[str, Any]:
    """Train at one point of the grid in this process. Returns the peaks of its phases in bytes."""
    import torch
    import trl.trainer.dpo_trainer  # noqa: F401  (part of the loaded baseline)

    from dpo_recipes.engine.context import TrainingContext
    from dpo_recipes.engine.train import prepare_trainer
    from dpo_recipes.model.build import build_model
    from dpo_recipes.model.sources import resolve_model
    from dpo_recipes.model.tokenizer import load_tokenizer

    recipe = make_recipe(point)
    if point["device"] == "cuda":
        torch.cuda.set_per_process_memory_fraction(point["fraction"])
    peaks = {"baseline": _peak(point["device"])}
    location = resolve_model(recipe.model)
    tokenizer = load_tokenizer(location, trust_remote_code=False)
    chat = SimpleNamespace(end_ids=[tokenizer.eos_token_id], added_ids=[], template=SimpleNamespace(name="none"))
    bundle = build_model(recipe, location, tokenizer, chat, trust_remote_code=False)
    peaks["loading"] = _peak(point["device"])
    rows = make_rows(recipe, bundle.policy.config.vocab_size, point["length"], 4 * point["batch"])
    with tempfile.TemporaryDirectory() as folder:
        context = TrainingContext(recipe, Path(folder) / "checkpoints", bundle.device, bundle.dtype)
        trainer = prepare_trainer(bundle, context, {"train": rows}, [])
        peaks["reference"] = _peak(point["device"])
        output = trainer.train()
        peaks["training"] = _peak(point["device"])
    return {"peaks": peaks, "train_s": output.metrics["train_runtime"]}


def _peak(device: str) -> int:
    """The peak since the last call, in bytes. Resets the peak."""
    if device == "cuda":
        import torch

        peak = torch.cuda.max_memory_reserved()
        torch.cuda.reset_peak_memory_stats()
        return peak
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")
    return peak


def predict(point: dict[str, Any]) -> dict[str, Any]:
    """The prediction of `plan` for the point."""
    from dpo_recipes.fit.planner.memory import estimate_memory
    from dpo_recipes.fit.planner.sharding import Sharding
    from dpo_recipes.fit.simulation.meta_model import load_meta_model, weigh
    from dpo_recipes.fit.simulation.passes import Batch
    from dpo_recipes.fit.simulation.trace import Rates
    from dpo_recipes.model.sources import resolve_model

    recipe = make_recipe(point)
    location = resolve_model(recipe.model)
    meta_model = load_meta_model(recipe, location, point["device"], trust_remote_code=False).with_dtype(
        recipe.model.dtype
    )
    sizes = pair_sizes(point["length"])[: 1 + objective_of(recipe).batch_shape(recipe.objective).num_answers]
    batch = Batch.of(*([size] * point["batch"] for size in sizes))
    weights = weigh(meta_model, meta_model.build())
    return estimate_memory(meta_model, weights, batch, Rates(1e11, 1e10), Sharding()).to_json()


def main() -> None:
    """Measure the grid; print a line for each point, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--only", default=",".join(DECODERS))
    parser.add_argument("--objectives", action="store_true", help="measure the points of the other objectives")
    parser.add_argument("--every", type=int, default=1, help="measure only every n-th point")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--fraction", type=float, default=1.0)
    parser.add_argument("--predict", type=Path, nargs="+", help="update the predictions for the points of result files")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.predict:
        predict_again(options.predict, options.output)
        return
    if options.measure:
        print(json.dumps(measure(json.loads(options.measure))))
        return
    points = read_points([options.output]) if options.output and options.output.exists() else []
    measured = set(map(place, points))
    with tempfile.TemporaryDirectory() as folder:
        chosen = points_of_objectives() if options.objectives else grid(options.only.split(","), options.every)
        for point in chosen:
            base = Path(folder) / point["model"]
            if not base.exists():
                save_base(MODELS[point["model"]], base)
            point |= {"device": options.device, "fraction": options.fraction, "folder": str(base)}
            if place(point) not in measured:
                points.append(run_point(point))
                write(options.output, points)
    print(json.dumps(summarize(points), indent=2))


def grid(models: list[str], every: int) -> Iterator[dict[str, Any]]:
    """Every n-th point of DPO's grid of each model."""
    names = ("tuning", "length", "batch", "checkpointing")
    for model in models:
        for values in list(itertools.product(TUNINGS, LENGTHS, BATCHES, (False, True)))[::every]:
            yield {"model": model, **dict(zip(names, values, strict=True))}


def points_of_objectives() -> Iterator[dict[str, Any]]:
    """The points of the objectives other than DPO."""
    for objective, models in OBJECTIVES.items():
        for index, model in enumerate(models):
            for tuning in ("full", "lora"):
                is_longer = index % 2 > 0
                length, batch = (512, 2) if is_longer else (192, 4)
                yield {"objective": objective, "model": model, "tuning": tuning, "length": length, "batch": batch,
                       "checkpointing": is_longer and tuning == "lora"}  # fmt: skip


def run_point(point: dict[str, Any]) -> dict[str, Any]:
    """Measure in a fresh process, predict, compare."""
    environment = {**(cpu_allocator() if point["device"] == "cpu" else {}), **os.environ}
    command = [sys.executable, __file__, "--measure", json.dumps(point)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{point}: {done.stderr[-2000:]}")
    return compare(point, json.loads(done.stdout.splitlines()[-1]))


def compare(point: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    """A point with its measured and predicted peaks and the error."""
    predicted = predict(point)
    # Loading on a CPU is excluded: it maps files, whose pages the system reclaims when it needs memory.
    peak = max(size for phase, size in measured["peaks"].items() if phase != "loading" or point["device"] != "cpu")
    error = predicted["peak_bytes"] / peak - 1
    described = {key: value for key, value in point.items() if key not in ("folder", "fraction")}
    print(
        f"{point.get('objective', 'dpo'):6} {point['model']:8} {point['tuning']:5} "
        f"{point['length']:5} x {point['batch']} "
        f"{'checkpointed' if point['checkpointing'] else '            '} measured {peak / 2**20:7.0f} MiB, "
        f"predicted {predicted['peak_bytes'] / 2**20:7.0f} MiB, {error:+.1%}",
        flush=True,
    )
    kept = {"peaks": measured["peaks"], "train_s": measured["train_s"]}
    return {**described, **kept, "predicted": predicted, "measured_bytes": peak, "error": round(error, 4)}


def place(point: dict[str, Any]) -> tuple[Any, ...]:
    """The coordinates of a point in the grid."""
    keys = ("model", "tuning", "length", "batch", "checkpointing", "device")
    return point.get("objective", "dpo"), *(point[key] for key in keys)


def read_points(paths: list[Path]) -> list[dict[str, Any]]:
    """The points of result files in the order of the grid, each once."""
    points = {place(point): point for path in paths for point in json.loads(path.read_text())["points"]}
    kinds, names, tunings = ["dpo", *OBJECTIVES], list(MODELS), list(TUNINGS)

    def order(key: tuple[Any, ...]) -> tuple[Any, ...]:
        kind, name, tuning, *others = key
        return kinds.index(kind), names.index(name), tunings.index(tuning), *others

    return [points[key] for key in sorted(points, key=order)]


def predict_again(paths: list[Path], output: Path | None) -> None:
    """Merge the points of result files, and replace their predictions by those of this version."""
    with tempfile.TemporaryDirectory() as folder:
        points = []
        for point in read_points(paths):
            base = Path(folder) / point["model"]
            if not base.exists():
                save_base(MODELS[point["model"]], base)
            points.append(compare({**point, "folder": str(base)}, point))
    write(output, points)
    print(json.dumps(summarize(points), indent=2))


def summarize(points: list[dict[str, Any]]) -> dict[str, Any]:
    """Median and worst errors, over all points and by tuning."""

    def errors(chosen: list[dict[str, Any]]) -> dict[str, Any]:
        values = [point["error"] for point in chosen]
        return {
            "points": len(values),
            "median_absolute": round(statistics.median(map(abs, values)), 4),
            "worst_over": max(values),
            "worst_under": min(values),
            "within_15_percent": sum(abs(value) <= 0.15 for value in values),
        }

    groups = {name: [point for point in points if point["tuning"] == name] for name in TUNINGS}
    groups |= {name: [point for point in points if point.get("objective") == name] for name in OBJECTIVES}
    return {"all": errors(points), **{name: errors(chosen) for name, chosen in groups.items() if chosen}}


def write(output: Path | None, points: list[dict[str, Any]]) -> None:
    """The current results, with machine and versions."""
    if output is not None:
        result = {"machine": describe_machine(), "packages": package_versions(), "summary": summarize(points)}
        output.write_text(json.dumps({**result, "points": points}, indent=1) + "\n")


if __name__ == "__main__":
    main()
