"""The recipes for real models, run from beginning to end on stand-ins: the same architecture with two small layers,
rows of the same shape as the real data, and everything else as the recipe says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import make_tokenizer

from dpo_recipes.shipped import recipe_paths, recipes_folder

Work = Callable[..., Any]
SIZES = {"vocab_size": 600, "max_position_embeddings": 512}


def _save(folder: Path, model: Any, *, has_template: bool = False) -> Path:
    tokenizer = make_tokenizer()
    if not has_template:
        tokenizer.chat_template = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _gpt2(folder: Path) -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=600, n_positions=512, n_embd=32, n_layer=2, n_head=2)
    return _save(folder, GPT2LMHeadModel(config))


def _qwen2(folder: Path) -> Path:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Qwen2Config(**SIZES, **shape, num_key_value_heads=2, tie_word_embeddings=True)
    return _save(folder, Qwen2ForCausalLM(config), has_template=True)


def _llama(folder: Path) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    return _save(folder, LlamaForCausalLM(LlamaConfig(**SIZES, **shape, num_key_value_heads=2)))


def _dialogue(number: int) -> str:
    return f"\n\nHuman: What is {number} plus one?\n\nAssistant:"


def _hh_row(number: int) -> dict[str, Any]:
    return {"chosen": f"{_dialogue(number)} {number + 1}.", "rejected": f"{_dialogue(number)} Who can say?"}


def _dahoas_row(number: int) -> dict[str, Any]:
    answer = f" {number + 1}."
    return {"prompt": _dialogue(number), "response": answer, "chosen": answer, "rejected": " Who can say?"}


def _chatml_row(number: int) -> dict[str, Any]:
    prompt = f"<|im_start|>user\nWhat is {number} plus one?<|im_end|>\n<|im_start|>assistant\n"
    return {
        "prompt": prompt,
        "chosen": f"{number + 1}.<|im_end|>\n",
        "rejected": "Who can say?<|im_end|>\n",
        "delta_score": number / 10,
    }


STAND_INS = {
    "llama3_qlora": (_llama, _chatml_row, ["model.dtype=float32", "data.train[0].select.top=24"]),
    "qwen2_6gb": (_qwen2, _dahoas_row, []),
    "gpt2_mps": (_gpt2, _hh_row, []),
    "gpt2_rm_hh": (_gpt2, _dahoas_row, []),
    "gpt2_medium_dpo_csv": (_gpt2, None, []),
}


@pytest.mark.parametrize("name", STAND_INS)
def test_a_flagship_recipe_runs_from_beginning_to_end(work: Work, tmp_path: Path, name: str) -> None:
    make_model, make_row, overrides = STAND_INS[name]
    text = recipe_paths()[name].read_text(encoding="utf-8")
    overrides = [
        *overrides,
        f"model.path={make_model(tmp_path / 'model')}",
        "hardware={device: cpu}",
        "tracking={report_to: []}",
        "training.max_steps=2",
        "training.gradient_accumulation_steps=2",
        "training.logging_steps=1",
        "evaluation={num_samples: 2, max_new_tokens: 8}",
    ]
    if make_row is None:
        overrides.append(f"data.train[0].path={recipes_folder() / 'data/everyday/questions.csv'}")
    else:
        folder = tmp_path / "data"
        for split, count in (("train", 40), ("test", 8)):
            (folder / split).mkdir(parents=True)
            rows = [json.dumps(make_row(number)) for number in range(100, 100 + count)]
            (folder / split / "rows.jsonl").write_text("\n".join(rows) + "\n")
        (folder / "dataset_dict.json").write_text("{}")  # as `DatasetDict.save_to_disk` writes it: a folder a split
        overrides.append(f"data.train[0].path={folder}")
    outcome = work(text, *overrides)
    assert outcome.exit_code == 0, outcome.events[-1]
    result = outcome.result
    assert result["recipe"] == text.partition("\nname: ")[2].splitlines()[0]
    assert result["steps"] == 2
    assert result["base_metrics"]["eval_loss"] == pytest.approx(0.6931, abs=2e-3)
    assert result["metrics"]["eval_loss"] != result["base_metrics"]["eval_loss"]
    assert (outcome.run.path / "model" / "README.md").exists()
    if name == "llama3_qlora":
        assert result["model"]["quantization"] == "nf4, double quantization (bitsandbytes)"
        assert result["saved"] == "adapter"
    if name == "gpt2_rm_hh":
        assert result["num_test_pairs"] == 8
        assert "test_loss" in result["metrics"]
