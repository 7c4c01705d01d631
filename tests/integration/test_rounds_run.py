"""The shipped recipe of on-policy DPO, with a tiny model and few rows in the places of its own."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file

from dpo_recipes.evaluate.result import EvaluationResult, SampleResult
from dpo_recipes.finished_run import open_run
from dpo_recipes.jobs.chain import FinishedChain, run_chain
from dpo_recipes.jobs.chain_file import ValidatedChain, validate_file
from dpo_recipes.shipped import recipe_paths

MODULE = "model.layers.0.mlp.up_proj.weight"


def _run(model: Path, output_dir: Path) -> FinishedChain:
    small = [
        f"output_dir={output_dir}",
        f"steps.sft.model={{path: '{model}', adapter: {{kind: lora, r: 4, save_as: merged}}}}",
        "steps.sft.data.train[0].limit=16",
        "steps.sft.data.eval.sources[0].limit=4",
        f"steps.reward.model={{path: '{model}', adapter: {{kind: lora, r: 4}}}}",
        "steps.dpo.model.adapter={kind: lora, r: 4, save_as: merged}",
        "steps.reward.data.train[0].limit=16",
        "steps.reward.data.eval.sources[0].limit=4",
        "steps.dpo.data.eval.sources[0].limit=4",
        "training.max_steps=1",
        "training.micro_batch_size=2",
        "steps.sample.limit=6",
        "steps.sample.cut_off=keep",
        "generate.max_new_tokens=8",
        "steps.compare.limit=3",
        "steps.compare.kl_prompts=2",
    ]
    validated = validate_file(recipe_paths()["onpolicy_dpo"], small)
    assert isinstance(validated, ValidatedChain)
    return run_chain(validated, lambda event: None)


def test_two_rounds_of_on_policy_dpo(tiny_model: Path, tmp_path: Path, steps_here: None) -> None:
    """Each round learns from answers of the model before it to other prompts."""
    finished = _run(tiny_model, tmp_path / "runs")
    job, steps = finished.directory.path, {step.name: step for step in finished.result.steps}
    assert {step.state for step in steps.values()} == {"finished"}
    sft, first, second = (open_run(job / str(steps[name].directory)) for name in ("sft", "dpo-1", "dpo-2"))
    assert first.recipe.model.path == str(sft.model_dir)
    assert second.recipe.model.path == str(first.model_dir)
    weights = [
        load_file(folder / "model.safetensors")[MODULE] for folder in (sft.model_dir, first.model_dir, second.model_dir)
    ]
    assert not weights[0].equal(weights[1])
    assert not weights[1].equal(weights[2])
    places = []
    for number, reference in ((1, sft.run.path), (2, first.run.path)):
        step = steps[f"sample-{number}"]
        result = SampleResult.read(job / str(step.directory) / "result.json")
        assert result.models[0].reference == str(reference)
        rows = [json.loads(line) for line in (job / str(step.product)).read_text(encoding="utf-8").splitlines()]
        assert {"score_chosen", "rewards_chosen", "model_chosen"} <= set(rows[0])
        places += [row["where"] for row in rows]
    assert len(places) == len(set(places))  # `prompts: next`
    compared = EvaluationResult.read(job / str(steps["compare"].directory) / "result.json")
    assert len(compared.models) == 3
    assert set(compared.comparisons[0].win_rates) == {"judge"}
    page = finished.directory.report.read_text(encoding="utf-8")
    assert page.count("<caption>The best and the worst answer of each row") == 2
    assert "Win-rate over sft" in page
