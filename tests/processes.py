"""Runs of several processes on this machine's CPU, started like `dpo-recipe run --num-processes`, and comparisons of
their results with those of one process, which is this one: a new process spends seconds on imports."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import recipe_text, write_pairs

from dpo_recipes import worker
from dpo_recipes.launch.choose import LaunchFlags
from dpo_recipes.preparation import prepare_run
from dpo_recipes.recipe.validate import Validated, validate
from dpo_recipes.workflow import RunOptions, run_recipe

STEPS = (
    "loss", "grad_norm", "rewards/margins", "rewards/accuracies", "rewards/chosen", "logps/chosen", "logps/rejected",
    "nll_loss", "log_odds_chosen", "kl", "num_tokens", "accuracy", "margin", "mean_reward",
)  # fmt: skip
# `logits/*`, `entropy` and `mean_token_accuracy` are not compared: TRL averages them over all tokens of a pass, and
# several processes compute in one pass what a single process computes in several.
# There are 17 training and 6 held-out pairs, in micro-batches of 2 pairs, 2 for each step. The last step has a single
# pair, so one of two processes has none, and the 3 held-out micro-batches are an odd number.
SETTINGS = ("training.max_steps=null", "training.num_epochs=2", "training.learning_rate=1e-3")


@dataclass
class Run:
    """A finished run and its cache."""

    result: dict[str, Any]
    cache: Path

    @property
    def path(self) -> Path:
        return Path(self.result["model_dir"]).parent

    def read(self, name: str) -> Any:
        return json.loads((self.path / name).read_text())

    @property
    def steps(self) -> list[dict[str, float]]:
        rows = [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]
        return [row for row in rows if "loss" in row]

    @property
    def reference(self) -> dict[str, np.ndarray]:
        return {path.parent.name: np.load(path) for path in (self.cache / "reference").glob("*/logps.npy")}


@dataclass
class Runner:
    """Runs a recipe of a tiny model, each time with a separate cache."""

    folder: Path
    model: Path

    def __call__(
        self,
        num_processes: int,
        *overrides: str,
        adapter: str = "null",
        on_event: Callable[[Any], None] | None = None,
        resume: bool = False,
        cache: Path | None = None,
    ) -> Run:
        data = write_pairs(self.folder / "pairs.jsonl", 23)
        recipe = self.folder / "recipe.yaml"
        recipe.write_text(recipe_text(self.model, data, adapter=adapter), encoding="utf-8")
        cache = cache or self.folder / f"cache-{time.monotonic_ns()}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DPO_RECIPE_CACHE", str(cache))
            patch.setenv("OMP_NUM_THREADS", "1")
            patch.setenv("DS_ACCELERATOR", "cpu")
            settings = [*SETTINGS, f"output_dir={self.folder / 'runs'}", *overrides]
            validated = validate(recipe, settings)
            if num_processes == 1:
                assert on_event is None
                return Run(_run_here(validated, resume=resume), cache)
            options, silent = RunOptions(flags=LaunchFlags(num_processes=num_processes)), lambda event: None
            finished = run_recipe(validated, on_event or silent, options, resume=resume)
            assert finished is not None
            return Run(finished.result.to_json(), cache)


def _run_here(validated: Validated, *, resume: bool) -> dict[str, Any]:
    """The result of a run that this process executes."""
    directory = prepare_run(validated, resume=resume)[0].run
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert worker.main([str(directory.path)]) == 0, directory.events.read_text()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return json.loads(directory.result.read_text())


def assert_same_steps(one: Run, other: Run, tolerance: float = 1e-5, num_steps: int = 10) -> None:
    assert len(one.steps) == len(other.steps) == num_steps
    for mine, theirs in zip(one.steps, other.steps, strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine.keys() & {*STEPS}:
            assert mine[name] == pytest.approx(theirs[name], rel=tolerance, abs=1e-6), (name, mine["step"])
    for name, value in one.result["metrics"].items():
        found = other.result["metrics"][name]
        assert found == (None if value is None else pytest.approx(value, rel=tolerance, abs=1e-5)), name


def assert_same_weights(one: Run, other: Run) -> None:
    from safetensors.numpy import load_file

    (mine,), (theirs,) = ([*Path(run.result["model_dir"]).glob("*.safetensors")] for run in (one, other))
    ours, others = load_file(mine), load_file(theirs)
    assert ours.keys() == others.keys()
    for name, weight in ours.items():
        np.testing.assert_allclose(others[name], weight, rtol=1e-3, atol=1e-5, err_msg=name)


def assert_scores_alike(one: Run, other: Run) -> None:
    """The saved reward models load as classifiers without a missing weight and give a dialogue the same number."""
    import torch
    from peft import AutoPeftModelForSequenceClassification
    from transformers import AutoModelForSequenceClassification

    rewards = []
    for run in (one, other):
        folder = run.result["model_dir"]
        if run.result["saved"] == "adapter":
            model: Any = AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=1)
        else:
            model, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
            assert not any(info.values()), info
        with torch.no_grad():
            rewards.append(model.eval()(input_ids=torch.arange(3, 23).reshape(1, -1)).logits)
    assert rewards[0].shape == (1, 1)
    torch.testing.assert_close(rewards[1], rewards[0], rtol=1e-3, atol=1e-4)


def base_answers(run: Run) -> list[str]:
    return [sample["base"] for sample in run.result["samples"]]
