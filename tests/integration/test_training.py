"""The real trainer on a two-layer model: what it writes, and that the right parameters moved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import make_tokenizer, recipe_text, write_pairs

from dpo_recipes.objectives.dpo import OBJECTIVE

Work = Callable[..., "Outcome"]  # noqa: F821
METRIC_KEYS = [metric.key for metric in OBJECTIVE.metrics]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs.jsonl")


def test_a_lora_run_leaves_the_whole_run_directory(work: Work, tiny_model: Path, pairs: Path) -> None:
    outcome = work(recipe_text(tiny_model, pairs))
    assert outcome.exit_code == 0
    names = {path.name for path in outcome.run.path.iterdir()}
    assert {
        "recipe.yaml",
        "resolved.yaml",
        "plan.json",
        "environment.json",
        "data_report.json",
        "metrics.jsonl",
        "model",
        "report.html",
        "result.json",
    } <= names
    assert not [name for name in names if name.endswith(".partial")]


def test_result_json_has_what_is_promised(work: Work, tiny_model: Path, pairs: Path) -> None:
    result = work(recipe_text(tiny_model, pairs)).result
    for key in ("status", "recipe", "steps", "train_runtime_s", "pairs_per_second", "peak_memory_bytes", "model_dir"):
        assert result[key], key
    assert result["status"] == "finished"
    assert result["steps"] == 3
    assert (
        {f"eval_{name}" for name in METRIC_KEYS} | {"train_loss"}
        == set(result["metrics"])
        == set(result["base_metrics"])
    )
    assert result["base_metrics"]["eval_loss"] == pytest.approx(0.6931, abs=1e-4)
    assert result["metrics"]["eval_loss"] < result["base_metrics"]["eval_loss"]
    assert [set(sample) >= {"prompt", "base", "tuned"} for sample in result["samples"]] == [True, True]
    assert result["num_eval_pairs"] == 6
    assert result["num_train_pairs"] == 12  # 3 steps of 4 pairs, of the 18 that are not held out


def test_a_run_tells_how_fast_it_was_in_distinct_tokens(work: Work, tiny_model: Path, pairs: Path) -> None:
    outcome = work(recipe_text(tiny_model, pairs))
    rows = [json.loads(line) for line in outcome.run.metrics.read_text().splitlines()]
    trained = [row for row in rows if "loss" in row]
    for row in trained:
        assert row["distinct_tokens_per_second"] > 0
        assert 0.3 < row["positions_saved"] < 0.9  # prompts stand twice in a padded batch
        assert row["peak_memory_bytes"] > 10**8
    assert outcome.result["positions_saved"] == trained[-1]["positions_saved"]
    assert outcome.result["distinct_tokens_per_second"] > 0
    assert outcome.result["matmul_share"] is None  # the rate of the device is not known
    profiled = work(recipe_text(tiny_model, pairs).replace("device: cpu", "device: cpu, profile: cpu")).result
    assert 0 <= profiled["matmul_share"] < 1  # of a model this small it rounds to nothing
    plain = work(recipe_text(tiny_model, pairs), "training.prefix_sharing=off").result
    assert plain["positions_saved"] == 0
    assert plain["distinct_tokens_per_second"] > 0


def test_metrics_have_one_row_a_logged_step_under_trls_names(work: Work, tiny_model: Path, pairs: Path) -> None:
    outcome = work(recipe_text(tiny_model, pairs), "training.eval_steps=2")
    rows = [json.loads(line) for line in outcome.run.metrics.read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3]
    last_step = [row for row in rows if "loss" in row][-1]
    assert {"rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected"} <= set(last_step)
    assert [row["step"] for row in rows if "eval_loss" in row] == [0, 2, 3]


def test_lora_moves_the_adapter_and_nothing_else(work: Work, tiny_model: Path, pairs: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    outcome = work(recipe_text(tiny_model, pairs))
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    saved = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), outcome.run.path / "model")
    moved = [name for name, value in saved.named_parameters() if "lora_B" in name and value.abs().max() > 0]
    assert len(moved) == 14  # seven linear layers in each of two blocks
    for name, value in base.named_parameters():
        frozen = name.replace("_proj.weight", "_proj.base_layer.weight")
        assert torch.equal(value, saved.get_parameter(f"base_model.model.{frozen}")), name
    assert outcome.result["model"]["trainable_parameters"] < outcome.result["model"]["total_parameters"] / 2


def test_full_fine_tuning_saves_a_model_that_differs_from_the_base(
    work: Work, tiny_model: Path, pairs: Path, tmp_path: Path
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    base_path = tmp_path / "base"
    shutil.copytree(tiny_model, base_path)
    config = AutoConfig.from_pretrained(base_path)
    config.attention_dropout = 0.25  # off in this run, and the saved model's all the same
    config.save_pretrained(base_path)
    outcome = work(recipe_text(base_path, pairs, adapter="null"))
    assert outcome.result["saved"] == "full"
    tuned = AutoModelForCausalLM.from_pretrained(outcome.run.path / "model")
    assert tuned.config.attention_dropout == 0.25
    base = AutoModelForCausalLM.from_pretrained(base_path)
    changed = [not torch.equal(a, b) for a, b in zip(base.parameters(), tuned.parameters(), strict=True)]
    assert all(changed)
    assert AutoTokenizer.from_pretrained(outcome.run.path / "model").chat_template


def test_a_merged_model_computes_what_base_and_adapter_compute(work: Work, tiny_model: Path, pairs: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapter = work(recipe_text(tiny_model, pairs)).run.path / "model"
    merged = work(recipe_text(tiny_model, pairs, adapter="{kind: lora, r: 4, save_as: merged}")).run.path / "model"
    ids = torch.arange(3, 40)[None]
    two = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), adapter)
    one = AutoModelForCausalLM.from_pretrained(merged)
    torch.testing.assert_close(one(ids).logits, two(ids).logits, rtol=1e-4, atol=1e-5)


def test_accumulation_does_not_change_the_result(work: Work, tiny_model: Path, pairs: Path) -> None:
    """Micro-batches of 1 × 4 and 4 × 1 see the same four pairs a step, so losses agree to rounding."""
    losses = []
    for micro, accumulation in ((1, 4), (4, 1)):
        outcome = work(
            recipe_text(tiny_model, pairs),
            f"training.micro_batch_size={micro}",
            f"training.gradient_accumulation_steps={accumulation}",
        )
        rows = [json.loads(line) for line in outcome.run.metrics.read_text().splitlines()]
        losses.append([row["loss"] for row in rows if "loss" in row])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_same_recipe_gives_the_same_losses(work: Work, tiny_model: Path, pairs: Path) -> None:
    first, second = (work(recipe_text(tiny_model, pairs)).result["metrics"] for _ in range(2))
    assert first == second


def test_a_test_set_is_evaluated_before_and_after_and_not_in_between(work: Work, tiny_model: Path, pairs: Path) -> None:
    outcome = work(recipe_text(tiny_model, pairs), "data.test={count: 5}", "training.eval_steps=1")
    result = outcome.result
    assert (result["num_eval_pairs"], result["num_test_pairs"]) == (6, 5)
    assert {f"test_{name}" for name in METRIC_KEYS} <= set(result["metrics"])
    assert result["base_metrics"]["test_loss"] == pytest.approx(0.6931, abs=1e-4)
    assert result["metrics"]["test_loss"] < result["base_metrics"]["test_loss"]
    rows = [json.loads(line) for line in outcome.run.metrics.read_text().splitlines()]
    assert [row["step"] for row in rows if "eval_loss" in row] == [0, 1, 2, 3]
    assert [row["step"] for row in rows if "test_loss" in row] == [0, 3]
    assert not any("eval_" in name for row in rows if "test_loss" in row for name in row)


@pytest.mark.parametrize("adapter", ["{kind: lora, r: 4}", "null"])
def test_added_tokens_are_trained_and_saved(work: Work, tiny_model: Path, pairs: Path, adapter: str) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    text = recipe_text(tiny_model, pairs, "chat_template: llama3", adapter)
    refused = work(text)
    assert (refused.exit_code, refused.codes) == (4, ["D421"])
    outcome = work(text, "model.add_special_tokens=true")
    assert outcome.result["model"]["added_tokens"] == [
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ]
    folder = outcome.run.path / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    (end,) = tokenizer.encode("<|eot_id|>", add_special_tokens=False)
    assert tokenizer.eos_token_id == end
    if adapter == "null":
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert set(model.generation_config.eos_token_id) == {make_tokenizer().eos_token_id, end}
    else:
        model = AutoPeftModelForCausalLM.from_pretrained(folder)
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], return_tensors="pt", return_dict=True)
    assert torch.isfinite(model(**ids).logits).all()


def test_new_rows_of_the_embeddings_move_with_an_adapter_and_are_all_that_is_saved_of_them(
    work: Work, tiny_model: Path, pairs: Path
) -> None:
    from peft import AutoPeftModelForCausalLM
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    text = recipe_text(tiny_model, pairs, "chat_template: llama3")
    adapter = work(text, "model.add_special_tokens=true").run.path / "model"
    merged = work(text, "model.add_special_tokens=true", "model.adapter.save_as=merged").run.path / "model"
    saved = load_file(adapter / "adapter_model.safetensors")
    rows = {name: value.shape[0] for name, value in saved.items() if "lora" not in name}
    assert sorted(rows.values()) == [3, 3]  # of the input and of the output embeddings
    two = AutoPeftModelForCausalLM.from_pretrained(adapter)
    one = AutoModelForCausalLM.from_pretrained(merged)
    vocabulary = one.get_input_embeddings().weight.shape[0]
    ids = torch.arange(vocabulary - 40, vocabulary)[None]
    torch.testing.assert_close(one(ids).logits, two(ids).logits, rtol=1e-4, atol=1e-5)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    old = base.get_input_embeddings().weight
    assert torch.equal(one.get_input_embeddings().weight[: len(old)], old)


@pytest.mark.parametrize("loss", ["ipo", "hinge", "robust", "apo_zero", "[sigmoid, sft]"])
def test_other_losses_train(work: Work, tiny_model: Path, pairs: Path, loss: str) -> None:
    outcome = work(recipe_text(tiny_model, pairs, f"objective: {{kind: dpo, loss_type: {loss}}}"))
    assert outcome.exit_code == 0
    assert outcome.result["metrics"]["train_loss"] != pytest.approx(0.0)


def test_without_held_out_pairs_nothing_is_claimed(work: Work, tiny_model: Path, pairs: Path) -> None:
    outcome = work(recipe_text(tiny_model, pairs).replace("  eval: {fraction: 0.25}\n", ""))
    assert set(outcome.result["metrics"]) == {"train_loss"}
    assert "no pairs were held out" in (outcome.run.path / "model" / "README.md").read_text()


def test_the_model_card_states_base_data_and_results(work: Work, tiny_model: Path, pairs: Path) -> None:
    outcome = work(recipe_text(tiny_model, pairs))
    card = (outcome.run.path / "model" / "README.md").read_text()
    assert str(tiny_model) in card
    assert "pairs.jsonl" in card
    assert f"| Loss (`loss`) | 0.693 | {outcome.result['metrics']['eval_loss']:.3f} |" in card
    assert "| Reward margin (`rewards/margins`) | 0.000 | +" in card
    assert "library_name: peft" in card
