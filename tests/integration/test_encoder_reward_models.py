"""A reward model on an encoder, from its recipe to a sequence classifier that reads `tokenizer(prompt, answer)`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from preflight import check
from safetensors.torch import load_file
from tiny import make_encoder_tokenizer, recipe_text, save_tiny_encoder, write_pairs

from dpo_recipes.data.chat_template import apply_template
from dpo_recipes.data.encode import Encoder
from dpo_recipes.data.fit_length import TokenizedRow, fit
from dpo_recipes.data.render import render_row
from dpo_recipes.data.report import SplitReport
from dpo_recipes.data.rows import Row
from dpo_recipes.engine.collators import AnswerCollator
from dpo_recipes.errors import RunError
from dpo_recipes.finished_run import open_run
from dpo_recipes.model.heads import auto_class, configure_head, head_modules, initialize_head
from dpo_recipes.model.missing_weights import judge_weights
from dpo_recipes.model.positions import num_positions

Work = Callable[..., "Outcome"]  # noqa: F821
OBJECTIVE = "objective: {kind: reward}\n"


def encoder_recipe(model: Path, folder: Path, adapter: str = "null", extra: str = "") -> str:
    text = recipe_text(model, write_pairs(folder / "pairs.jsonl"), OBJECTIVE + extra, adapter)
    return text.replace("evaluation: {num_samples: 2, max_new_tokens: 8}\n", "")


def conversation(*texts: str) -> tuple[Any, ...]:
    roles = ("user", "assistant")
    return tuple({"role": roles[place % 2], "content": text} for place, text in enumerate(texts))


def encoded(tokenizer: Any, prompt: tuple[Any, ...], *answers: str) -> TokenizedRow:
    """A row as it is tokenized for training, before truncation."""
    chat = apply_template(tokenizer, "tokenizer", None, is_encoder=True)
    row = Row(prompt, tuple(({"role": "assistant", "content": answer},) for answer in answers), "row 1")
    (ids,) = Encoder(tokenizer, chat.template.text).encode([render_row(row, chat.renderer)])
    return TokenizedRow(ids.prompt_ids, ids.answer_ids, ids.answer_context)


# What the model reads


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_rows_have_the_ids_of_two_texts(family: str) -> None:
    tokenizer = make_encoder_tokenizer(family)
    prompt, answers = "What is the capital of Peru?", ("Lima.", "Many things could be said.")
    row = encoded(tokenizer, conversation(prompt), *answers)
    collate = AnswerCollator(tokenizer.pad_token_id, has_token_types=family == "bert")
    batch = collate([{"prompt_ids": row.prompt_ids, "answer_ids": row.answer_ids}])
    expected = make_encoder_tokenizer(family)([prompt] * 2, list(answers), padding=True, return_tensors="pt")
    for name in expected:
        assert torch.equal(batch[name], expected[name]), name
    assert ("token_type_ids" in expected) == (family == "bert")


def test_a_tokenizer_whose_file_asks_for_padding() -> None:
    tokenizer = make_encoder_tokenizer()
    tokenizer.backend_tokenizer.enable_padding(length=20, pad_id=tokenizer.pad_token_id, pad_token="[PAD]")
    tokenizer.backend_tokenizer.enable_truncation(10)
    row = encoded(tokenizer, conversation("Hello!"), "Lima.")
    assert tokenizer.decode([*row.prompt_ids, *row.answer_ids[0]]) == "[CLS] hello! [SEP] lima. [SEP]"


def test_a_longer_conversation_has_a_separator_after_each_turn() -> None:
    tokenizer = make_encoder_tokenizer()
    row = encoded(tokenizer, conversation("Hello!", "Hello there!", "How long?"), "Eight minutes.")
    assert tokenizer.decode(row.prompt_ids) == "[CLS] hello! [SEP] hello there! [SEP] how long? [SEP]"
    assert tokenizer.decode(row.answer_ids[0]) == "eight minutes. [SEP]"


def test_truncation_keeps_the_tokens_around_the_texts() -> None:
    tokenizer = make_encoder_tokenizer()
    row = encoded(tokenizer, conversation("What is the capital of Peru?"), "Many things could be said.", "Lima.")
    ends = tokenizer.cls_token_id, tokenizer.sep_token_id
    shorter = row.length - 3
    for overlong in ("truncate_prompt_start", "truncate_completion_end"):
        cut = fit(row, "row 1", shorter, overlong, SplitReport(), keep=ends)
        assert cut is not None
        assert cut.length == shorter
        assert cut.prompt_ids[0] == tokenizer.cls_token_id
        assert cut.prompt_ids[-1] == tokenizer.sep_token_id
        assert all(ids[-1] == tokenizer.sep_token_id for ids in cut.answer_ids)


# Heads


@pytest.mark.parametrize(
    ("family", "modules", "positions"),
    [
        ("bert", ["bert.pooler", "classifier"], 128),
        ("roberta", ["classifier"], 128),
        ("distilbert", ["pre_classifier", "classifier"], 128),
        ("deberta-v2", ["pooler", "classifier"], 128),
        ("modernbert", ["head", "classifier"], None),
        ("albert", ["albert.pooler", "classifier"], 128),
        ("electra", ["classifier"], 128),
        ("mpnet", ["classifier"], 128),
    ],
)
def test_heads_and_positions_of_each_family(
    tmp_path: Path, family: str, modules: list[str], positions: int | None
) -> None:
    from transformers import AutoConfig

    base = save_tiny_encoder(tmp_path, family)
    config = configure_head(AutoConfig.from_pretrained(base), "score")
    models = []
    for seed in (1, 1, 2):
        model, info = auto_class("score").from_pretrained(base, config=config, output_loading_info=True)
        assert judge_weights(info, model, str(base), "score") == [], "a new head is no missing weight"
        initialize_head(model, info["missing_keys"], seed)
        models.append(model.state_dict())
    assert head_modules(model) == modules
    assert num_positions(model) == positions
    weight = next(name for name in info["missing_keys"] if name.startswith("classifier.") and models[0][name].ndim == 2)
    assert torch.equal(models[0][weight], models[1][weight])
    assert not torch.equal(models[0][weight], models[2][weight])


# Whole runs


def rewards(model: Any, tokenizer: Any) -> torch.Tensor:
    """The rewards of two answers of different lengths in one padded batch."""
    prompts, answers = ["What is 3 plus one?"] * 2, ["4.", "Many things could be said about this question."]
    with torch.no_grad():
        return model.eval()(**tokenizer(prompts, answers, padding=True, return_tensors="pt")).logits


@pytest.mark.parametrize(
    ("family", "adapter"),
    [
        ("bert", "{kind: lora, r: 4}"),
        ("bert", "{kind: lora, r: 4, save_as: merged}"),
        ("bert", "{kind: lora, r: 4}, quantization: {bits: 4}"),
        ("bert", "null"),
        ("roberta", "{kind: lora, r: 4}"),
        ("deberta-v2", "{kind: lora, r: 4}"),
        ("modernbert", "null"),
    ],
)
def test_a_run_saves_a_classifier_that_scores_as_it_was_trained(
    work: Work, tmp_path: Path, family: str, adapter: str
) -> None:
    from peft import AutoPeftModelForSequenceClassification
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    outcome = work(encoder_recipe(save_tiny_encoder(tmp_path / "base", family), tmp_path, adapter))
    assert outcome.exit_code == 0
    result = outcome.result
    assert result["saved_model"]["equal"]
    assert "it is an encoder" in result["model"]["prefix_sharing"]
    folder = Path(result["model_dir"])
    assert 'tokenizer("the prompt", "an answer to it"' in (folder / "README.md").read_text(encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if result["saved"] == "adapter":
        saved = json.loads((folder / "adapter_config.json").read_text())
        assert set(saved["modules_to_save"]) >= {"classifier"}
        model = AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    else:
        model, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
        assert not any(info.values()), info
    found = rewards(model, tokenizer)
    assert found.shape == (2, 1)
    if "quantization" not in adapter:
        policy = open_run(outcome.run.path).load(device="cpu").policy
        assert torch.allclose(rewards(policy, tokenizer), found, atol=1e-5)


def test_a_resumed_run_ends_with_the_same_bits(work: Work, tmp_path: Path) -> None:
    text = encoder_recipe(save_tiny_encoder(tmp_path / "base"), tmp_path)
    whole = work(text, "checkpoints.save_steps=1")
    weights = load_file(Path(whole.result["model_dir"]) / "model.safetensors")
    for path in whole.run.checkpoints.glob("checkpoint-3*"):
        shutil.rmtree(path)
    shutil.rmtree(whole.result["model_dir"])
    whole.run.result.unlink()
    again = work(text, "checkpoints.save_steps=1", resume=True)
    assert again.result["resumed_from_step"] == 2
    found = load_file(Path(again.result["model_dir"]) / "model.safetensors")
    assert all(torch.equal(found[name], expected) for name, expected in weights.items())


# Bad input


def finding_of(work: Work, text: str) -> dict[str, Any]:
    outcome = work(text)
    (event,) = [event for event in outcome.events if event["event"] == "error"]
    (finding,) = event["findings"]
    return finding


def test_an_encoder_generates_nothing(tmp_path: Path) -> None:
    base = save_tiny_encoder(tmp_path / "base")
    for kind in ("dpo", "kto", "orpo", "sft"):
        text = recipe_text(base, write_pairs(tmp_path / "pairs.jsonl"), f"objective: {{kind: {kind}}}\n")
        (finding,) = check(tmp_path / "r.yaml", text)
        assert (finding.code, finding.where and finding.where.line) == ("M518", 3)
        assert "an encoder can become a reward model" in str(finding.fix)


def test_a_length_beyond_the_positions_of_the_base(tmp_path: Path) -> None:
    base = save_tiny_encoder(tmp_path / "base", max_position_embeddings=64)
    (finding,) = check(tmp_path / "r.yaml", encoder_recipe(base, tmp_path))
    assert (finding.code, finding.where and finding.where.line) == ("M526", 7)
    assert "reads at most 64 tokens, and `data.max_length` is 128" in finding.what
    assert "write `max_length: 64`" in str(finding.fix)


def test_a_tokenizer_without_a_separator(work: Work, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, processors

    base = save_tiny_encoder(tmp_path / "base")
    backend = Tokenizer.from_file(str(base / "tokenizer.json"))
    backend.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    backend.save(str(base / "tokenizer.json"))
    finding = finding_of(work, encoder_recipe(base, tmp_path))
    assert (finding["code"], finding["at"]) == ("M527", ["model", "path"])
    assert "no separator" in finding["what"]


@pytest.mark.parametrize(
    ("template", "why"), [("chatml", "start with [CLS] and end with [SEP]"), ("plain", "cannot render")]
)
def test_a_template_of_decoders(template: str, why: str) -> None:
    with pytest.raises(RunError) as raised:
        apply_template(make_encoder_tokenizer(), template, True, is_encoder=True)
    (finding,) = raised.value.findings
    assert (finding.code, finding.at) == ("M527", ("chat_template",))
    assert why in str(finding.why)


def test_an_own_template_that_fits() -> None:
    text = "[CLS]{% for message in messages %}{{ message.role }}: {{ message.content }}[SEP]{% endfor %}"
    chat = apply_template(make_encoder_tokenizer(), text, None, is_encoder=True)
    assert chat.renderer.render(conversation("Hi")) == "[CLS]user: Hi[SEP]"
