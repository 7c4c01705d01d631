"""An objective of another package trains through the installed command, with the default trainer, and is watched by its
guard."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from outside import installed
from tiny import recipe_text, write_pairs

Command = Callable[..., Any]


def test_two_steps_of_another_packages_objective(command: Command, tmp_path: Path, tiny_model: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    extra = "objective: {kind: slic, delta: 2.0, per_token: true}\nguards: {uncalibrated: {}}\n"
    text = recipe_text(tiny_model, "pairs.jsonl", extra)
    (tmp_path / "recipe.yaml").write_text(text.replace("max_steps: 3", "max_steps: 2"), encoding="utf-8")
    with installed(tmp_path / "site"):
        done = command("run", "recipe.yaml", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["steps"] == 2
    assert result["guards"]["watched"][-1] == "uncalibrated"
    assert [(alert["guard"], alert["code"], alert["step"]) for alert in result["guards"]["alerts"]] == [
        ("uncalibrated", "T901", 2)
    ]
    assert "warning[T901]: 0% of the held-out pairs are beyond `delta` at step 2" in done.stderr
    run = Path(result["model_dir"]).parent
    rows = [row for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        # No pair of an untrained model is beyond delta, so that the loss of each is delta minus its log-ratio.
        assert row["calibrated"] == 0.0
        assert row["loss"] == pytest.approx(2.0 - row["log_ratio"], abs=1e-5)
    assert rows[0]["log_ratio"] != rows[1]["log_ratio"]
