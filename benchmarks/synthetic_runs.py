"""Writes run directories as finished runs leave them, with made-up figures: for tests and for `report_time.py`."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from dpo_recipes.recipe.dump import dump_recipe
from dpo_recipes.recipe.schema import Recipe
from dpo_recipes.run_dir import RunDirectory
from dpo_recipes.run_result import RunResult


def make_recipe(name: str = "job", **sections: Any) -> Recipe:
    plain = {
        "schema": 1,
        "name": name,
        "model": {"path": "owner/model", "adapter": {"kind": "lora", "r": 8}},
        "data": {"train": [{"path": "owner/pairs"}], "eval": {"fraction": 0.1}},
        "objective": {"kind": "dpo"},
        "training": {"eval_steps": 10},
    }
    for section, values in sections.items():
        plain[section] = {**plain.get(section, {}), **values} if isinstance(values, dict) else values
    return Recipe.model_validate(plain)


def begin_run(folder: Path, recipe: Recipe, stamp: str = "20260102T030405Z", digits: str = "0000aa") -> RunDirectory:
    """A run directory as it is before the worker starts."""
    run = RunDirectory(folder / recipe.name / f"{stamp}-{digits}")
    run.path.mkdir(parents=True)
    run.resolved_recipe.write_text(dump_recipe(recipe), encoding="utf-8")
    prediction = {"peak_bytes": 2**31, "time_s": 120.0, "device_bytes": 2**33, "steps": 100}
    run.plan.write_text(json.dumps({"recipe": recipe.name, "prediction": prediction}), encoding="utf-8")
    return run


def make_run(
    folder: Path,
    recipe: Recipe,
    stamp: str = "20260102T030405Z",
    digits: str = "0000aa",
    *,
    metrics: dict[str, Any] | None = None,
    steps: int = 100,
    every: int = 5,
    **result: Any,
) -> RunDirectory:
    """A finished run. `metrics` are those of the tuned model; the curves lead to them."""
    run = begin_run(folder, recipe, stamp, digits)
    tuned = {"train_loss": 0.5, "eval_loss": 0.5, "eval_rewards/accuracies": 0.8, "eval_rewards/margins": 1.0}
    tuned |= metrics or {}
    base = {"eval_loss": 0.693, "eval_rewards/accuracies": 0.0, "eval_rewards/margins": 0.0}
    plain = {
        "status": "finished",
        "recipe": recipe.name,
        "steps": steps,
        "num_train_pairs": 800,
        "num_eval_pairs": 80,
        "train_runtime_s": 90.0,
        "wall_s": 150.0,
        "pairs_per_second": 8.0,
        "tokens_per_second": 900.0,
        "peak_memory_bytes": 1_900_000_000,
        "processes": {"pairs_per_step": 8},
        "data": {"source": "same rows"},
        "model": {"base": recipe.model.path, "device": "cpu"},
        "metrics": tuned,
        "base_metrics": base,
        "finished_at": "2026-01-02T03:10:00Z",
        **result,
    }
    RunResult.from_json({"schema": 1, **plain}).write(run.result)
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in _rows(tuned, base, steps, every)))
    return run


def _rows(tuned: dict[str, Any], base: dict[str, Any], steps: int, every: int) -> list[dict[str, Any]]:
    """Curves from the base's values to those of the tuned model, with noise in the training rows."""
    draw, rows = random.Random(str(tuned)), [{"step": 0, "epoch": 0, **base}]
    for step in range(every, steps + 1, every):
        share = (1 - math.exp(-4 * step / steps)) / (1 - math.exp(-4))
        values = {
            name: base[name] + (tuned[name] - base[name]) * share
            for name in base
            if tuned.get(name) is not None and math.isfinite(tuned[name])
        }
        noisy = {name.removeprefix("eval_"): value + draw.gauss(0, 0.02) for name, value in values.items()}
        epoch = round(step / steps, 4)
        rows.append({"step": step, **noisy, "grad_norm": 1.0, "learning_rate": 1e-5, "epoch": epoch})
        if step % (2 * every) == 0:
            rows.append({"step": step, **values, "epoch": epoch})
    return rows
