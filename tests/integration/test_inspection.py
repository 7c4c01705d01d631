"""`inspect` predicts what a job needs on this machine, if its base is here."""

from __future__ import annotations

from pathlib import Path

from tiny import recipe_text, write_pairs

from dpo_recipes.jobs.inspection import inspect_recipe

STEPS = """schema: 1
name: steps
steps:
  first: {recipe: tiny.yaml, set: {objective: {kind: sft}, model.adapter.save_as: merged}}
  second: {recipe: tiny.yaml, model: {path: 'step:first'}}
"""


def test_memory_time_and_disk_use_are_predicted_here(tiny_model: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    (tmp_path / "tiny.yaml").write_text(recipe_text(tiny_model, "pairs.jsonl"))
    (tmp_path / "steps.yaml").write_text(STEPS)
    one, chain = (inspect_recipe(tmp_path / name) for name in ("tiny.yaml", "steps.yaml"))
    for found in (one, chain):
        assert found.not_planned is None, found.not_planned
        assert found.errors == []
        assert found.fits is True
        assert found.network == []
        assert min(found.peak_bytes or 0, found.disk_bytes or 0, found.time_s or 0, found.device_bytes or 0) > 0
    assert (chain.steps, chain.objectives) == (["first", "second"], ["sft", "dpo"])
    assert (chain.time_s or 0) > (one.time_s or 0)


def test_a_base_that_is_not_here_is_not_fetched_for_a_prediction(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    (tmp_path / "tiny.yaml").write_text(recipe_text("someone/tiny", "pairs.jsonl"))
    found = inspect_recipe(tmp_path / "tiny.yaml")
    assert found.not_planned is not None
    assert "someone/tiny is not on this machine yet" in found.not_planned
    assert (found.fits, found.peak_bytes) == (None, None)
