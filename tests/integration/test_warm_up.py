"""The learning rate of each step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import recipe_text, write_pairs
from transformers.optimization import get_scheduler

from dpo_recipes.engine.engine_trainer import begin_above_zero

KINDS = ("linear", "cosine", "cosine_with_restarts", "constant_with_warmup", "inverse_sqrt", "polynomial")


def rates_of(kind: str, num_warmup_steps: int, num_steps: int = 10, *, shifted: bool = True) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler: Any = get_scheduler(kind, optimizer, num_warmup_steps, num_steps)
    if shifted:
        begin_above_zero(scheduler, num_warmup_steps)
    rates = []
    for _ in range(num_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("kind", KINDS)
def test_no_step_of_a_warm_up_has_a_rate_of_zero_and_later_ones_are_those_of_transformers(kind: str) -> None:
    """10 steps and a ratio of 0.1 make a warm-up of one: 1/2. Of three: 1/4, 2/4, 3/4."""
    assert rates_of(kind, 1)[0] == 0.5
    assert rates_of(kind, 3)[:3] == [0.25, 0.5, 0.75]
    assert rates_of(kind, 3)[3:] == rates_of(kind, 3, shifted=False)[3:]


@pytest.mark.parametrize("kind", [*KINDS, "constant"])
def test_without_a_warm_up_the_first_step_has_the_full_rate(kind: str) -> None:
    assert rates_of(kind, 0)[0] == 1.0
    assert rates_of(kind, 0) == rates_of(kind, 0, shifted=False)


def test_a_run_trains_in_its_first_step(work: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    outcome = work(recipe_text(tiny_model, pairs), "training.warmup_ratio=0.3", "training.max_steps=4")
    rows = [json.loads(line) for line in outcome.run.metrics.read_text().splitlines()]
    rates = [row["learning_rate"] for row in rows if "learning_rate" in row]
    assert rates[:3] == pytest.approx([1e-2 / 3, 2e-2 / 3, 1e-2])
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[0] == pytest.approx(0.6931, abs=1e-4)
    assert losses[1] != pytest.approx(0.6931, abs=1e-4)  # after a step at a rate of 0 it would still be ln 2


def test_a_number_of_warm_up_steps_overrides_the_ratio(
    work: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    text = recipe_text(tiny_model, pairs)
    outcome = work(text, "training.warmup_ratio=0.9", "training.warmup_steps=1", "training.max_steps=3")
    rows = [json.loads(line) for line in outcome.run.metrics.read_text().splitlines()]
    rates = [row["learning_rate"] for row in rows if "learning_rate" in row]
    assert rates[:2] == pytest.approx([1e-2 / 2, 1e-2])
