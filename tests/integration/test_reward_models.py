"""A reward model from its recipe to a sequence classifier that plain transformers and peft load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import recipe_text, write_pairs

from dpo_recipes.finished_run import open_run

Work = Callable[..., "Outcome"]  # noqa: F821
OBJECTIVE = "objective: {kind: reward}\nchat_template: chatml\n"


def reward_recipe(model: Path, folder: Path, adapter: str) -> str:
    text = recipe_text(model, write_pairs(folder / "pairs.jsonl"), OBJECTIVE, adapter)
    return text.replace("evaluation: {num_samples: 2, max_new_tokens: 8}\n", "")


def rewards(model: Any, tokenizer: Any) -> torch.Tensor:
    """The rewards of two texts of different lengths in one padded batch."""
    model.config.pad_token_id = tokenizer.pad_token_id
    batch = tokenizer(["one plus one?", "a much longer text, which is not padded"], padding=True, return_tensors="pt")
    with torch.no_grad():
        return model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


@pytest.mark.parametrize(
    "adapter",
    [
        "{kind: lora, r: 4}",
        "{kind: lora, r: 4, save_as: merged}",
        "{kind: lora, r: 4, init: pissa}",
        "{kind: lora, r: 4}, quantization: {bits: 4}",
        "{kind: lora, r: 4, save_as: merged}, quantization: {bits: 4}",
        "null",
    ],
)
def test_a_run_saves_a_classifier_that_scores_as_it_was_trained(
    work: Work, tiny_model: Path, tmp_path: Path, adapter: str
) -> None:
    from peft import AutoPeftModelForSequenceClassification
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    outcome = work(reward_recipe(tiny_model, tmp_path, adapter))
    assert outcome.exit_code == 0
    result = outcome.result
    assert result["saved_model"]["checked"]
    assert result["saved_model"]["equal"]
    assert result["samples"] == []
    assert result["metrics"]["eval_accuracy"] >= 0.0
    assert result["model"]["reference"] is None
    assert result["model"]["prefix_sharing"].startswith("on")
    folder = Path(result["model_dir"])
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "ForSequenceClassification" in card
    assert "pipeline_tag: text-classification" in card
    assert not (folder / "generation_config.json").exists()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if result["saved"] == "adapter":
        saved = json.loads((folder / "adapter_config.json").read_text())
        assert saved["task_type"] == "SEQ_CLS"
        assert "score" in saved["modules_to_save"]
        (head,) = (value for name, value in load_file(folder / "adapter_model.safetensors").items() if "score" in name)
        model = AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=1)
        used: Any = model.base_model.model.score.modules_to_save["default"].weight
    else:
        saved = json.loads((folder / "config.json").read_text())
        assert saved["architectures"][0].endswith("ForSequenceClassification")
        assert saved["pad_token_id"] == tokenizer.pad_token_id
        head = load_file(folder / "model.safetensors")["score.weight"]
        model, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
        assert not any(info.values()), info
        used = model.score.weight
    assert torch.equal(used, head)
    first, second = rewards(model, tokenizer)
    assert first.shape == (1,)
    assert first != second
    if "quantization" not in adapter:
        policy = open_run(outcome.run.path).load(device="cpu").policy
        assert torch.allclose(rewards(policy, tokenizer), torch.stack([first, second]), atol=1e-5)


@pytest.mark.parametrize("adapter", ["{kind: lora, r: 4}", "null"])
def test_a_resumed_run_ends_with_the_same_bits(work: Work, tiny_model: Path, tmp_path: Path, adapter: str) -> None:
    text = reward_recipe(tiny_model, tmp_path, adapter)
    whole = work(text, "checkpoints.save_steps=1")
    weights = {path.name: load_file(path) for path in Path(whole.result["model_dir"]).glob("*.safetensors")}
    run = whole.run
    # As if the machine had failed after the second step.
    for path in run.checkpoints.glob("checkpoint-3*"):
        shutil.rmtree(path)
    shutil.rmtree(whole.result["model_dir"])
    run.result.unlink()
    again = work(text, "checkpoints.save_steps=1", resume=True)
    assert again.run.path == run.path
    assert again.result["resumed_from_step"] == 2
    for name, expected in weights.items():
        found = load_file(Path(again.result["model_dir"]) / name)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_new_head_is_the_same_for_a_seed(tiny_model: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    from dpo_recipes.model.heads import initialize_head

    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    heads = []
    for seed in (1, 1, 2):
        initialize_head(model, ["score.weight"], seed)
        heads.append(model.score.weight.detach().clone())
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_a_reward_model_is_no_base_of_an_objective_that_generates(work: Work, tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    base = shutil.copytree(tiny_model, tmp_path / "base")
    AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1).save_pretrained(base)
    outcome = work(recipe_text(base, write_pairs(tmp_path / "pairs.jsonl"), "chat_template: chatml\n"))
    assert outcome.codes == ["M518"]
    (event,) = [event for event in outcome.events if event["event"] == "error"]
    assert "as a reward model does" in event["findings"][0]["why"]
    assert event["findings"][0]["at"] == ["model", "path"]
    assert work(reward_recipe(base, tmp_path, "null")).exit_code == 0, "but one that is trained further"


def test_an_encoder_decoder_is_refused_before_its_weights_are_read(
    work: Work, tiny_model: Path, tmp_path: Path
) -> None:
    from transformers import T5Config

    base = shutil.copytree(tiny_model, tmp_path / "base")
    T5Config(d_model=32, num_layers=1, num_heads=2, d_ff=32).save_pretrained(base)
    outcome = work(reward_recipe(base, tmp_path, "null"))
    assert outcome.codes == ["M518"]
    (event,) = [event for event in outcome.events if event["event"] == "error"]
    assert "cannot become a reward model" in event["findings"][0]["what"]
    assert "is an encoder-decoder" in event["findings"][0]["why"]
