"""The shipped recipes on the real SmolLM2. Minutes long: `make test-slow`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., "subprocess.CompletedProcess[str]"]
REPOSITORY = Path(__file__).resolve().parents[2]
HH = REPOSITORY.parent / "shared" / "data" / "hh_rlhf_harmless_base.jsonl.gz"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_the_quickstart_ends_with_a_visibly_better_model(command: Command) -> None:
    done = command("run", "quickstart", "--json", timeout=1800)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["metrics"]["eval_rewards/accuracies"] >= 0.9
    assert result["answer_words"]["tuned"] < 0.6 * result["answer_words"]["base"]
    assert result["num_eval_pairs"] >= 80


@pytest.mark.skipif(not HH.exists(), reason="the hh-rlhf file is not part of the project")
def test_real_dialogues_train(command: Command) -> None:
    """Five steps on the same eight pairs: their loss begins at ln 2 and must fall. The held-out loss of so few pairs
    may go either way."""
    settings = {
        "data.train[0].path": HH,
        "data.limit": 8,
        "data.eval.limit": 4,
        "training.num_epochs": 5,
        "training.gradient_accumulation_steps": 2,
        "evaluation.num_samples": 1,
    }
    overrides = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    done = command("run", "smollm2_hh", "--json", *overrides, timeout=1800)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    report = json.loads((Path(result["model_dir"]).parent / "data_report.json").read_text())["splits"]
    assert sum(split["rows_in"] for split in report.values()) == 1800
    assert result["num_train_pairs"] == 8
    assert result["metrics"]["train_loss"] < 0.65


def test_smollm2s_digits_are_single_tokens() -> None:
    """llama.cpp splits numbers for this tokenizer; transformers alone does not (see restore_pre_tokenizer)."""
    from dpo_recipes.model.sources import resolve_model
    from dpo_recipes.model.tokenizer import load_tokenizer
    from dpo_recipes.recipe.validate import validate
    from dpo_recipes.shipped import recipe_paths

    recipe = validate(recipe_paths()["quickstart"]).recipe
    tokenizer = load_tokenizer(resolve_model(recipe.model))
    assert tokenizer.tokenize("In 2024: 12 345") == [
        "In",
        "Ġ",
        "2",
        "0",
        "2",
        "4",
        ":",
        "Ġ",
        "1",
        "2",
        "Ġ",
        "3",
        "4",
        "5",
    ]


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_the_real_model_trains_as_with_trl(tmp_path: Path, adapter: str) -> None:
    """SmolLM2 on pairs of the quickstart, by the benchmark that sets our trainer beside TRL's own."""
    pairs = REPOSITORY / "recipes" / "data" / "everyday" / "train.jsonl"
    benchmark = [sys.executable, str(REPOSITORY / "benchmarks" / "throughput.py"), "--data", str(pairs), "--json"]
    job = ["--adapter", adapter, "--batch", "2", "--steps", "5", "--max-length", "128", "--checkpointing"]
    done = subprocess.run([*benchmark, *job], capture_output=True, text=True, timeout=1700)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["steps"] == 5
    assert report["loss_max_rel_diff"] < 1e-4
    assert report["memory_ratio"] < 1
