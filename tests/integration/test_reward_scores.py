"""Scores of a reward model as a source of rewards equal those of the model called by itself in plain transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_encoder_tokenizer, make_tokenizer, recipe_text, write_pairs

from dpo_recipes.errors import RunError
from dpo_recipes.reward_settings import ModelReward
from dpo_recipes.rewards.base import RewardContext, RewardSources
from dpo_recipes.rewards.model_reward import RewardModel, load_reward_model

Work = Callable[..., "Outcome"]  # noqa: F821
CONTEXT = RewardContext("cpu")
PROMPTS = ["What is the capital of Peru?", "Hello there!", "How long do I boil an egg?", "What? " * 80]
ANSWERS = ["Lima.", "Many things could be said about this interesting question. " * 2, "", "Eight minutes."]
NUM_POSITIONS = 128


def save_reward_model(folder: Path, family: str) -> Path:
    """A two-layer reward model with random weights, whose head is large enough to tell texts apart."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    tokenizer = make_encoder_tokenizer() if family == "bert" else make_tokenizer()
    sizes: dict[str, Any] = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
        "max_position_embeddings": NUM_POSITIONS,
    }  # fmt: skip
    if family == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": NUM_POSITIONS}
    if family == "qwen2":
        sizes["num_key_value_heads"] = 2
    special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), num_labels=1, **sizes, **special)
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_config(config)
    head = model.classifier if family == "bert" else model.score
    torch.nn.init.normal_(head.weight, std=2.0)
    if family == "bert":
        torch.nn.init.normal_(model.bert.pooler.dense.weight, std=1.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def by_itself(folder: Path, prompt: str, answer: str) -> float:
    """The number of plain transformers for one text, without padding. An over-long text loses the start of its
    prompt."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        encoded = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
        first = tokenizer.bos_token_id
    else:
        encoded = tokenizer([prompt], [answer], return_tensors="pt")  # without lists, an empty answer is none
        first = tokenizer.cls_token_id
    excess = encoded["input_ids"].shape[1] - NUM_POSITIONS
    if excess > 0:
        keep = 1 if encoded["input_ids"][0, 0] == first else 0
        parts = {name: (ids[:, :keep], ids[:, keep + excess :]) for name, ids in encoded.items()}
        encoded = {name: torch.cat(pair, dim=1) for name, pair in parts.items()}
    with torch.no_grad():
        return model(**{name: encoded[name] for name in encoded}).logits.item()


def messages(prompts: list[str]) -> Any:
    return [[{"role": "user", "content": prompt}] for prompt in prompts]


@pytest.mark.parametrize("family", ["bert", "qwen2", "gpt2"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_scores_equal_those_of_the_model_by_itself(tmp_path: Path, family: str, batch_size: int) -> None:
    folder = save_reward_model(tmp_path, family)
    settings = ModelReward(model=str(folder), batch_size=batch_size, max_length=NUM_POSITIONS)
    source = load_reward_model(settings, CONTEXT)
    found = source.score(messages(PROMPTS), ANSWERS, {})
    expected = [by_itself(folder, prompt, answer) for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]
    assert found == pytest.approx(expected, abs=1e-5)
    assert max(found) - min(found) > 0.1, "the texts must be told apart"
    lengths = [sum(map(len, ids)) for ids in source.encode(messages(PROMPTS), ANSWERS)]
    assert lengths[-1] == NUM_POSITIONS, "the last text is over-long"


def test_an_answer_that_is_too_long_by_itself_keeps_the_frame(tmp_path: Path) -> None:
    source = load_reward_model(ModelReward(model=str(save_reward_model(tmp_path, "bert"))), CONTEXT)
    assert isinstance(source, RewardModel)
    ((prompt, answer),) = source.encode(messages(["Hello there!"]), ["many things " * 100])
    tokenizer = make_encoder_tokenizer()
    assert len(prompt) + len(answer) == NUM_POSITIONS
    assert prompt == [tokenizer.cls_token_id, tokenizer.sep_token_id]
    assert answer[-1] == tokenizer.sep_token_id


def test_a_finished_run_brings_its_template_and_length(work: Work, tiny_model: Path, tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    text = recipe_text(tiny_model, pairs, "chat_template: plain\nobjective: {kind: reward}\n")
    outcome = work(text.replace("evaluation: {num_samples: 2, max_new_tokens: 8}\n", ""), "data.max_length=40")
    settings = ModelReward(model=str(outcome.run.path), weight=2.0, name="judge")
    sources = RewardSources([settings], CONTEXT)
    found = sources.score(messages(["What is 3 plus one?"]), ["4."], {})
    from peft import AutoPeftModelForSequenceClassification

    folder = outcome.result["model_dir"]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=1).eval()
    chat = [{"role": "user", "content": "What is 3 plus one?"}, {"role": "assistant", "content": "4."}]
    inputs = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        expected = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits.item()
    assert found.by_source["judge"] == pytest.approx([expected], abs=1e-5)
    assert found.total == pytest.approx([2 * expected], abs=2e-5)
    ids = next(load_reward_model(settings, CONTEXT).encode(messages(["What? " * 80]), ["4."]))
    assert sum(map(len, ids)) == 40


def test_the_head_computes_in_32_bits(tmp_path: Path) -> None:
    folder = save_reward_model(tmp_path, "qwen2")
    source = load_reward_model(ModelReward(model=str(folder), dtype="bfloat16"), CONTEXT)
    values = torch.tensor(source.score(messages(PROMPTS), ANSWERS, {}))
    assert not torch.equal(values, values.bfloat16().float())
    expected = [by_itself(folder, prompt, answer) for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]
    assert values[:3].tolist() == pytest.approx(expected[:3], abs=0.3)


@pytest.mark.parametrize(
    ("family", "settings", "code", "what"),
    [
        ("qwen2", {"chat_template": "llama3"}, "M529", "lacks <|start_header_id|>"),
        ("gpt2", {"max_length": NUM_POSITIONS + 1}, "M526", "reads at most 128 tokens"),
    ],
)
def test_settings_that_do_not_fit_the_model(
    tmp_path: Path, family: str, settings: dict[str, Any], code: str, what: str
) -> None:
    folder = save_reward_model(tmp_path, family)
    finding = refusal(ModelReward(model=str(folder), **settings))
    assert finding.code == code
    assert what in finding.what


def test_models_without_a_score_head(tmp_path: Path, tiny_model: Path) -> None:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    finding = refusal(ModelReward(model=str(tiny_model)))
    assert (finding.code, finding.at) == ("M528", ("objective", "rewards", 0, "model"))
    assert "LlamaForCausalLM" in str(finding.why)
    folder = save_reward_model(tmp_path, "qwen2")
    config = AutoConfig.from_pretrained(folder)
    config.num_labels = 3
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    finding = refusal(ModelReward(model=str(folder)))
    assert finding.code == "M528"
    assert "it returns 3 numbers" in str(finding.why)


def test_a_model_whose_files_lack_the_head(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_reward_model(tmp_path, "qwen2")
    weights = load_file(folder / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    finding = refusal(ModelReward(model=str(folder)))
    assert finding.code == "M516"
    assert finding.what.startswith("the reward model: ")


def refusal(settings: ModelReward) -> Any:
    with pytest.raises(RunError) as caught:
        RewardSources([settings], CONTEXT)
    return caught.value.findings[0]
