"""Quantized bases, ways an adapter begins, continued adapters: what is trained, saved, and compared with."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import recipe_text, write_pairs

Work = Callable[..., Any]
IDS = torch.arange(3, 43)[None]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs.jsonl")


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


def _base(folder: Path, **arguments: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, **arguments)


@pytest.mark.parametrize(
    "adapter",
    [
        "{kind: lora, r: 4, use_rslora: true}",
        "{kind: lora, r: 4, use_dora: true}",
        "{kind: lora, r: 4, init: gaussian}",
        "{kind: lora, r: 4, init: orthogonal}",
        "{kind: lora, r: 4, init: pissa}",
        "{kind: lora, r: 4, init: olora}",
        "{kind: lora, r: 4, init: olora, modules_to_save: [lm_head]}",
        "{kind: lora, r: 4, target_modules: [q_proj, v_proj], modules_to_save: [lm_head]}",
    ],
)
def test_every_adapter_starts_as_the_base_and_is_saved_so_that_it_fits_the_untouched_base(
    work: Work, tiny_model: Path, pairs: Path, adapter: str
) -> None:
    from peft import PeftModel

    saved = work(recipe_text(tiny_model, pairs, adapter=adapter))
    assert saved.exit_code == 0
    # The base compared with its own reference: log 2, whatever part of its weights has moved into the adapter.
    assert saved.result["base_metrics"]["eval_loss"] == pytest.approx(0.6931, abs=1e-3)
    assert saved.result["metrics"]["eval_loss"] < 0.693
    merged = work(recipe_text(tiny_model, pairs, adapter=adapter), "model.adapter.save_as=merged")
    two = PeftModel.from_pretrained(_base(tiny_model), saved.run.path / "model")
    one = _base(merged.run.path / "model")
    torch.testing.assert_close(_logits(one), _logits(two), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(_logits(one), _logits(_base(tiny_model)), atol=1e-3)
    assert {path.name for path in (saved.run.path / "model").iterdir() if path.is_dir()} == set()


def test_an_adapter_is_continued_from_where_it_was(work: Work, tiny_model: Path, pairs: Path) -> None:
    first = work(recipe_text(tiny_model, pairs))
    folder = first.run.path / "model"
    second = work(recipe_text(tiny_model, pairs, adapter=f"{{kind: lora, path: '{folder}'}}"))
    assert second.exit_code == 0
    assert second.result["base_metrics"]["eval_loss"] == pytest.approx(0.6931, abs=1e-3)
    assert second.result["base_metrics"]["eval_logps/chosen"] == pytest.approx(
        first.result["metrics"]["eval_logps/chosen"], rel=1e-4
    )
    assert "before training" in second.result["model"]["reference"]
    config = json.loads((second.run.path / "model" / "adapter_config.json").read_text())
    assert config["r"] == 4


def test_an_adapter_of_another_shape(work: Work, tiny_model: Path, pairs: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "other"
    shutil.copytree(work(recipe_text(tiny_model, pairs)).run.path / "model", folder)
    weights = load_file(folder / "adapter_model.safetensors")
    save_file(
        {name: value[:, :-1].contiguous() for name, value in weights.items()}, folder / "adapter_model.safetensors"
    )
    outcome = work(recipe_text(tiny_model, pairs, adapter=f"{{kind: lora, path: '{folder}'}}"))
    assert (outcome.exit_code, outcome.codes) == (6, ["M512"])


def test_an_adapter_of_another_base(work: Work, tiny_model: Path, pairs: Path, tmp_path: Path) -> None:
    from dpo_recipes.errors import RunError
    from dpo_recipes.model.adapters import attach_adapter
    from dpo_recipes.model.sources import ModelLocation
    from dpo_recipes.recipe.validate import validate

    folder = tmp_path / "other"
    shutil.copytree(work(recipe_text(tiny_model, pairs)).run.path / "model", folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "some/base"}))
    path = tmp_path / "r.yaml"
    path.write_text(recipe_text("other/base", pairs, adapter=f"{{kind: lora, path: '{folder}'}}"))
    with pytest.raises(RunError, match=r"trained on some/base, and `model\.path` is other/base"):
        attach_adapter(validate(path).recipe, ModelLocation("other/base"), _base(tiny_model), [])


@pytest.mark.parametrize(
    ("kind", "rates"),
    [
        ("Starcoder2Config", {"residual_dropout": 0.5, "embedding_dropout": 0.5, "attention_dropout": 0.5}),
        ("OPTConfig", {"dropout": 0.5, "attention_dropout": 0.5, "layerdrop": 0.9, "word_embed_proj_dim": 32}),
        ("GPT2Config", {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5}),
    ],
)
def test_a_base_drops_nothing_out_wherever_it_has_its_rates(kind: str, rates: dict[str, float]) -> None:
    """What is learned begins at the reference: in training mode the base is what it is in evaluation."""
    import transformers

    from dpo_recipes.model.build import switch_off_dropout

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50}
    model: Any = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**sizes, **rates))
    ids = torch.arange(3, 23)[None]
    expected = model.eval()(ids).logits
    assert not torch.equal(model.train()(ids).logits, expected)
    switch_off_dropout(model)
    torch.testing.assert_close(model(ids).logits, expected)


@pytest.mark.parametrize("kind", ["IA3Config", "VeraConfig", "LoHaConfig"])
def test_an_adapter_that_is_no_lora(tiny_model: Path, pairs: Path, tmp_path: Path, kind: str) -> None:
    """A run refuses it when it would be put on, a plan when its configuration is read."""
    import peft

    from dpo_recipes.errors import RunError
    from dpo_recipes.model.adapters import adapter_config, attach_adapter
    from dpo_recipes.model.sources import ModelLocation
    from dpo_recipes.recipe.validate import validate

    modules = {"feedforward_modules": []} if kind == "IA3Config" else {}
    config = getattr(peft, kind)(task_type="CAUSAL_LM", target_modules=["q_proj"], **modules)
    peft.get_peft_model(_base(tiny_model), config).save_pretrained(tmp_path / "other")
    path = tmp_path / "r.yaml"
    path.write_text(recipe_text(tiny_model, pairs, adapter=f"{{kind: lora, path: '{tmp_path / 'other'}'}}"))
    recipe = validate(path).recipe
    with pytest.raises(RunError, match="M515"):
        attach_adapter(recipe, ModelLocation(str(tiny_model)), _base(tiny_model), [])
    with pytest.raises(RunError, match="M515"):
        adapter_config(recipe, _base(tiny_model))


@pytest.mark.parametrize(
    "quantization",
    ["{bits: 4}", "{bits: 4, quant_type: fp4, double_quant: false, compute_dtype: float32}", "{bits: 8}"],
)
def test_a_quantized_base_trains_on_a_cpu(work: Work, tiny_model: Path, pairs: Path, quantization: str) -> None:
    text = recipe_text(tiny_model, pairs).replace("{path:", f"{{quantization: {quantization}, path:", 1)
    outcome = work(text)
    assert outcome.exit_code == 0
    assert outcome.result["base_metrics"]["eval_loss"] == pytest.approx(0.6931, abs=1e-3)
    assert outcome.result["metrics"]["eval_loss"] < 0.693
    assert "bitsandbytes" in outcome.result["model"]["quantization"]
    names = {path.name for path in (outcome.run.path / "model").iterdir()}
    assert "adapter_model.safetensors" in names
    assert "model.safetensors" not in names


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_of_a_quantized_base_no_file_stays_mapped(tiny_model: Path, pairs: Path, tmp_path: Path) -> None:
    from dpo_recipes.model.build import build_model
    from dpo_recipes.model.sources import resolve_model
    from dpo_recipes.model.tokenizer import load_tokenizer
    from dpo_recipes.recipe.validate import validate

    base = tmp_path / "base"  # which nothing else in this process has open
    shutil.copytree(tiny_model, base)
    path = tmp_path / "r.yaml"
    path.write_text(recipe_text(base, pairs).replace("{path:", "{quantization: {bits: 4}, path:", 1))
    recipe = validate(path).recipe
    location = resolve_model(recipe.model)
    tokenizer = load_tokenizer(location, trust_remote_code=False)
    chat = SimpleNamespace(end_ids=[tokenizer.eos_token_id], added_ids=[])
    bundle = build_model(recipe, location, tokenizer, chat, trust_remote_code=False)
    assert "bitsandbytes" in bundle.model_info["quantization"]
    assert str(base) not in Path("/proc/self/maps").read_text()


def test_a_merged_quantized_model_computes_what_was_trained(work: Work, tiny_model: Path, pairs: Path) -> None:
    from peft import PeftModel
    from transformers import BitsAndBytesConfig

    from dpo_recipes.model.quantize import keep_differentiable

    text = recipe_text(tiny_model, pairs).replace("{path:", "{quantization: {bits: 4, double_quant: false}, path:", 1)
    adapter = work(text).run.path / "model"
    merged = work(text, "model.adapter.save_as=merged")
    assert merged.exit_code == 0
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    trained = PeftModel.from_pretrained(_base(tiny_model, quantization_config=config, device_map="cpu"), adapter)
    keep_differentiable(trained)
    saved = _base(merged.run.path / "model")
    assert not getattr(saved.config, "quantization_config", None)
    torch.testing.assert_close(_logits(saved), _logits(trained), rtol=1e-2, atol=1e-3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine can do it")
def test_loftq_says_that_it_needs_a_gpu(work: Work, tiny_model: Path, pairs: Path) -> None:
    text = recipe_text(tiny_model, pairs, adapter="{kind: lora, r: 8, init: loftq}")
    outcome = work(text.replace("{path:", "{quantization: {bits: 4}, path:", 1))
    assert (outcome.exit_code, outcome.codes) == (6, ["M514"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="peft computes LoftQ on CUDA only")
def test_loftq_begins_nearer_to_the_unquantized_base(work: Work, tiny_model: Path, pairs: Path) -> None:
    text = recipe_text(tiny_model, pairs, adapter="{kind: lora, r: 8, init: loftq}")
    outcome = work(text.replace("{path:", "{quantization: {bits: 4}, path:", 1))
    assert outcome.exit_code == 0
    assert "as initialized by `loftq`" in outcome.result["model"]["reference"]
    assert outcome.result["base_metrics"]["eval_loss"] == pytest.approx(0.6931, abs=1e-3)
    exact = work(recipe_text(tiny_model, pairs)).result["base_metrics"]["eval_logps/chosen"]
    plain = work(recipe_text(tiny_model, pairs).replace("{path:", "{quantization: {bits: 4}, path:", 1))
    error = abs(outcome.result["base_metrics"]["eval_logps/chosen"] - exact)
    assert error < abs(plain.result["base_metrics"]["eval_logps/chosen"] - exact)


@pytest.mark.parametrize(
    "optimizer",
    ["adamw_torch_fused", "adafactor", "lion_32bit", "paged_adamw_8bit", "adamw_8bit", "rmsprop", "adagrad"],
)
def test_optimizers_by_name(work: Work, tiny_model: Path, pairs: Path, optimizer: str) -> None:
    outcome = work(recipe_text(tiny_model, pairs), f"training.optimizer={optimizer}")
    assert outcome.exit_code == 0
    assert outcome.result["metrics"]["eval_loss"] < 0.693


@pytest.mark.parametrize(
    "override", ["training.lr_scheduler=cosine_with_restarts", "training.gradient_checkpointing=true"]
)
def test_schedules_and_checkpointing(work: Work, tiny_model: Path, pairs: Path, override: str) -> None:
    plain = work(recipe_text(tiny_model, pairs)).result["metrics"]
    outcome = work(recipe_text(tiny_model, pairs), override)
    assert outcome.exit_code == 0
    assert outcome.result["metrics"]["eval_loss"] == pytest.approx(plain["eval_loss"], abs=0.05)


def test_a_schedule_that_ends_above_zero(work: Work, tiny_model: Path, pairs: Path) -> None:
    settings = ("training.lr_scheduler=cosine_with_min_lr", "training.min_lr_ratio=0.5", "training.max_steps=6")
    outcome = work(recipe_text(tiny_model, pairs), *settings)
    rows = [json.loads(line) for line in outcome.run.metrics.read_text().splitlines()]
    rates = [row["learning_rate"] for row in rows if "learning_rate" in row]
    assert min(rates[1:]) >= 0.5e-2 * 0.999


def test_pickle_weights_need_permission(work: Work, tiny_model: Path, pairs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_model, folder)
    torch.save(_base(tiny_model).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    refused = work(recipe_text(folder, pairs))
    assert (refused.exit_code, refused.codes) == (6, ["M513"])
    assert work(recipe_text(folder, pairs), "model.allow_pickle=true").exit_code == 0


def test_a_config_without_weights(work: Work, tiny_model: Path, pairs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(tiny_model, folder)
    (folder / "model.safetensors").unlink()
    outcome = work(recipe_text(folder, pairs))
    assert (outcome.exit_code, outcome.codes) == (6, ["M504"])


@pytest.mark.parametrize(("method", "why"), [("gptq", "is not installed"), ("awq", "is not installed")])
def test_a_base_that_is_quantized_already(
    work: Work, tiny_model: Path, pairs: Path, tmp_path: Path, method: str, why: str
) -> None:
    folder = tmp_path / method
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "bits": 4, "group_size": 128}
    (folder / "config.json").write_text(json.dumps(config))
    outcome = work(recipe_text(folder, pairs))
    assert (outcome.exit_code, outcome.codes) == (6, ["M511"])
    assert why in outcome.events[-1]["findings"][0]["why"]
    whole = work(recipe_text(folder, pairs, adapter="null"))
    assert "cannot be trained" in whole.events[-1]["findings"][0]["why"]


@pytest.mark.parametrize(("is_to_be_sharded", "device"), [(False, "meta"), (True, "cpu")])
def test_the_base_goes_to_its_device_at_once_unless_it_is_to_be_cut_up(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, is_to_be_sharded: bool, device: str
) -> None:
    """`meta` stands for a GPU: what the base answers before training must not be computed on the CPU."""
    from types import SimpleNamespace

    from dpo_recipes.model import build
    from dpo_recipes.model.sources import ModelLocation
    from dpo_recipes.model.tokenizer import load_tokenizer
    from dpo_recipes.recipe.schema import Recipe

    monkeypatch.setattr(build, "choose_device", lambda wanted: "meta")
    monkeypatch.setattr(build, "choose_dtype", lambda *arguments: "float32")
    monkeypatch.setattr(build, "choose_attention", lambda *arguments: None)
    location, model = ModelLocation(str(tiny_model)), {"path": str(tiny_model), "adapter": {"kind": "lora"}}
    recipe = Recipe.model_validate({"schema": 1, "name": "x", "model": model, "data": {"train": [{"path": "x.jsonl"}]}})
    bundle = build.build_model(
        recipe, location, load_tokenizer(location, trust_remote_code=False),
        SimpleNamespace(end_ids=[0], added_ids=[]), trust_remote_code=False, is_to_be_sharded=is_to_be_sharded,
    )  # fmt: skip
    assert bundle.policy.device.type == device
