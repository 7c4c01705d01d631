"""A chain of tiny models: the second step begins with the model, tokenizer and template that the first one saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny import recipe_text, write_pairs

from dpo_recipes.cli.plan_text import describe_chain_plan
from dpo_recipes.errors import RunError
from dpo_recipes.finished_run import open_run
from dpo_recipes.jobs.chain import run_chain
from dpo_recipes.jobs.chain_file import ValidatedChain, validate_file
from dpo_recipes.jobs.chain_plan import plan_chain
from dpo_recipes.jobs.plan import PlanOptions

STEPS = """\
schema: 1
name: tiny
steps:
  sft:
    recipe: base.yaml
    objective: {kind: sft}
    set: {model.adapter.save_as: merged}
  dpo:
    recipe: base.yaml
    set: {model.path: step:sft}
  more:
    recipe: base.yaml
    set: {model.path: step:sft, model.adapter: {kind: lora, path: step:dpo}}
"""


@pytest.fixture
def chain(tiny_model: Path, tmp_path: Path, steps_here: None) -> Path:
    """The file of a chain whose steps are executed in this process."""
    text = recipe_text(tiny_model, write_pairs(tmp_path / "pairs.jsonl"), "chat_template: zephyr\n")
    (tmp_path / "base.yaml").write_text(text, encoding="utf-8")
    path = tmp_path / "chain.yaml"
    path.write_text(STEPS, encoding="utf-8")
    return path


def _validate(path: Path, *overrides: str) -> ValidatedChain:
    validated = validate_file(path, [f"output_dir={path.parent / 'runs'}", *overrides])
    assert isinstance(validated, ValidatedChain)
    return validated


def test_steps_begin_with_what_others_saved(chain: Path, tiny_model: Path) -> None:
    finished = run_chain(_validate(chain), lambda event: None)
    sft, dpo, more = (open_run(finished.directory.path / str(step.directory)) for step in finished.result.steps)
    assert dpo.recipe.model.path == str(sft.model_dir)
    assert dpo.result.data.chat_template == "zephyr"
    assert "<|user|>" in (sft.model_dir / "chat_template.jinja").read_text(encoding="utf-8")  # the one of zephyr
    name = "model.layers.0.mlp.up_proj.weight"
    before, after = (load_file(folder / "model.safetensors")[name] for folder in (tiny_model, sft.model_dir))
    assert not before.equal(after)  # the adapter of the first step is in its weights
    targets = json.loads((dpo.model_dir / "adapter_config.json").read_text(encoding="utf-8"))["target_modules"]
    assert targets == sorted(targets)  # else a later step would be done again after an equal run
    assert more.recipe.model.adapter is not None
    assert more.recipe.model.adapter.path == str(dpo.model_dir)
    # The continued adapter begins as the second step left it.
    key = "eval_logps/chosen"
    assert more.result.base_metrics[key] == pytest.approx(dpo.result.metrics[key], abs=1e-3)
    labels = [step.figures[0].label for step in finished.result.steps]
    assert labels == ["Loss", "Loss", "Loss"]
    page = finished.directory.report.read_text(encoding="utf-8")
    assert f'<a href="{finished.result.steps[1].directory}/report.html">' in page


def test_the_plan_adds_up_the_steps(chain: Path) -> None:
    """The second step is planned on the base of the first one, which does not exist yet."""
    planned = plan_chain(_validate(chain), PlanOptions())
    assert list(planned.steps) == ["sft", "dpo", "more"]
    times = [plan.time_s for plan in planned.steps.values()]
    assert planned.time_s == pytest.approx(sum(time or 0.0 for time in times))
    assert all(time for time in times)
    sft, dpo, more = planned.steps.values()
    peaks = [plan.peak_bytes or 0 for plan in (sft, dpo, more)]
    assert planned.highest == list(planned.steps)[peaks.index(max(peaks))]
    assert planned.to_json()["peak_bytes"] == max(peaks)
    assert [len(plan.bases) for plan in (sft, dpo, more)] == [1, 0, 0]
    assert dpo.disk_bytes is not None
    assert (sft.disk_bytes or 0) > dpo.disk_bytes  # a whole model, and an adapter
    written = sum(plan.disk_bytes or 0 for plan in (sft, dpo, more))
    assert planned.disk_bytes == written + sum(size or 0 for size in sft.bases.values())
    assert not sft.is_upper_bound  # the data are local files
    lines = list(describe_chain_plan(planned))
    assert lines[0] == "chain tiny: fits"
    assert [line.split()[0] for line in lines[2:7]] == ["step", "sft", "dpo", "more", "in"]


def test_a_step_that_fails_leaves_its_error(chain: Path) -> None:
    # Only the run itself can find that no module has this name.
    with pytest.raises(RunError, match="T662") as caught:
        run_chain(_validate(chain, "steps.dpo.model.adapter.target_modules=[nowhere]"), lambda event: None)
    assert "(R337); without it, more could not begin" in str(caught.value.findings[0].why)
