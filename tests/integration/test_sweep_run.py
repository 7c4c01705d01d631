"""A sweep of a tiny model: its trials share what does not depend on them, and the best one runs alone as it did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import recipe_text, write_pairs

from dpo_recipes import worker
from dpo_recipes.data import tokenize
from dpo_recipes.engine import reference
from dpo_recipes.finished_run import open_run
from dpo_recipes.jobs import trial_executor
from dpo_recipes.jobs.sweep import run_sweep
from dpo_recipes.preparation import prepare_run
from dpo_recipes.recipe.validate import Validated, validate
from dpo_recipes.run_dir import RunDirectory

Work = Callable[..., "Outcome"]  # noqa: F821


def _counted(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[int]:
    """Count the calls of a function."""
    calls, function = [0], getattr(module, name)

    def count(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        return function(*arguments, **options)

    monkeypatch.setattr(module, name, count)
    return calls


def test_trials_share_data_and_reference_and_the_best_one_runs_alone(
    work: Work, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_here(validated: Validated, on_event: Any, options: Any, *, directory: RunDirectory) -> None:
        prepare_run(validated, run=directory)
        assert worker.main([str(directory.path)]) == 0

    monkeypatch.setattr(trial_executor, "run_recipe", run_here)
    tokenizations = _counted(monkeypatch, tokenize, "_build")
    passes = _counted(monkeypatch, reference, "reference_logps")
    sweep = "sweep: {keep: best, grid: {training.learning_rate: [1e-6, 1e-2]}}\n"
    path = tmp_path / "sweep.yaml"
    path.write_text(recipe_text(tiny_model, write_pairs(tmp_path / "pairs.jsonl"), sweep), encoding="utf-8")
    finished = run_sweep(validate(path, [f"output_dir={tmp_path / 'runs'}"]), lambda event: None)
    assert tokenizations == [1]
    assert passes == [2]  # for the training rows and for the held-out ones
    first, second = (open_run(finished.directory.runs / name).result for name in ("001", "002"))
    values = [trial.value for trial in finished.result.trials]
    assert values == [first.metrics["eval_loss"], second.metrics["eval_loss"]]
    assert finished.result.best is not None
    assert finished.result.best.trial == 2  # three steps at 1e-6 change nothing
    assert (finished.directory.best / "model" / "adapter_model.safetensors").is_file()
    assert [(finished.directory.runs / name / "model").exists() for name in ("001", "002")] == [False, True]
    assert not (finished.directory.runs / "001" / "checkpoints").exists()
    alone = work((finished.directory.best / "recipe.yaml").read_text(encoding="utf-8"))
    assert alone.result["recipe"] == "tiny-best"
    assert alone.result["metrics"] == second.metrics
