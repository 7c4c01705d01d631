"""Saves models of each architecture, tuning and form, and reloads them with plain transformers or peft.

A tuned model here has randomly changed trainable weights: more weights change, and by larger amounts, than in some
steps of training. `tests/integration/test_saved_models.py` checks the table, `benchmarks/saved_models.py` writes it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tiny import make_tokenizer

from dpo_recipes.run_result import Environment, ModelInfo, RunResult

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
VOCABULARY = 420
"""More rows than the tokenizer has tokens, as in many bases; added tokens use the spare rows first."""
EMBEDDING, HEAD = "embed_tokens", "lm_head"
ARCHITECTURES = ("llama", "llama-tied", "qwen2", "qwen2-tied", "gpt2", "gpt2-tied", "gemma3", "gemma3-tied")


@dataclass(frozen=True)
class Tuning:
    """A kind of tuning: the recipe's adapter as YAML, and related settings."""

    adapter: str
    quantization: str = "null"
    adds_tokens: bool = False


TUNINGS = {
    "full": Tuning("null"),
    "full, tokens": Tuning("null", adds_tokens=True),
    "LoRA": Tuning("{kind: lora, r: 4}"),
    "DoRA": Tuning("{kind: lora, r: 4, use_dora: true}"),
    "PiSSA": Tuning("{kind: lora, r: 4, init: pissa}"),
    "LoRA on embeddings": Tuning("{kind: lora, r: 4, target_modules: [EMBEDDING, PROJECTION]}"),
    "embeddings whole": Tuning("{kind: lora, r: 4, modules_to_save: [EMBEDDING]}"),
    "head whole": Tuning("{kind: lora, r: 4, target_modules: [PROJECTION], modules_to_save: [HEAD]}"),
    "both whole": Tuning("{kind: lora, r: 4, target_modules: [PROJECTION], modules_to_save: [EMBEDDING, HEAD]}"),
    "added tokens": Tuning("{kind: lora, r: 4}", adds_tokens=True),
    "QLoRA": Tuning("{kind: lora, r: 4}", quantization="{bits: 4, double_quant: false}"),
}


def save_base(architecture: str, folder: Path) -> Path:
    """A random two-layer model of an architecture with the tests' tokenizer."""
    import transformers

    kind, _, tied = architecture.partition("-")
    config: Any
    if kind == "gpt2":
        config = transformers.GPT2Config(vocab_size=VOCABULARY, n_positions=256, n_embd=32, n_layer=2, n_head=2)
    else:
        sizes = {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 256, "vocab_size": VOCABULARY}
        extra = {"head_dim": 8, "sliding_window": 64} if kind == "gemma3" else {}
        name = {"llama": "LlamaConfig", "qwen2": "Qwen2Config", "gemma3": "Gemma3TextConfig"}[kind]
        config = getattr(transformers, name)(**sizes, **extra)
    config.tie_word_embeddings = bool(tied)
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def recipe_of(architecture: str, tuning: Tuning, base: Path) -> str:
    """A recipe with this tuning of a base."""
    is_gpt2 = architecture.startswith("gpt2")
    adapter = tuning.adapter.replace("EMBEDDING", "wte" if is_gpt2 else EMBEDDING).replace("HEAD", HEAD)
    adapter = adapter.replace("PROJECTION", "c_attn" if is_gpt2 else "q_proj")
    return f"""schema: 1
name: saved
model:
  path: '{base}'
  adapter: {adapter}
  quantization: {tuning.quantization}
  add_special_tokens: {"true" if tuning.adds_tokens else "null"}
chat_template: {"llama3" if tuning.adds_tokens else "tokenizer"}
data: {{train: [{{path: owner/pairs}}]}}
hardware: {{device: cpu}}
"""


def tune(recipe_path: Path) -> tuple[Any, Any, Any]:
    """The recipe, its bundle, and the model with each trainable weight changed at random."""
    from peft import get_peft_model

    from dpo_recipes.data.chat_template import apply_template
    from dpo_recipes.model.build import build_model
    from dpo_recipes.model.sources import resolve_model
    from dpo_recipes.model.tokenizer import load_tokenizer
    from dpo_recipes.recipe.validate import validate

    torch.manual_seed(0)
    recipe = validate(recipe_path).recipe
    location = resolve_model(recipe.model)
    tokenizer = load_tokenizer(location)
    chat = apply_template(tokenizer, recipe.chat_template, recipe.model.add_special_tokens)
    bundle = build_model(recipe, location, tokenizer, chat, trust_remote_code=False)
    model = bundle.policy
    if bundle.adapter_config is not None:
        model = get_peft_model(model, bundle.adapter_config)
    elif hasattr(model, "peft_config"):
        model.add_adapter("ref", model.peft_config["default"])
        _copy_adapter(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()
                weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    bundle.model_info["trainable_parameters"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return recipe, bundle, model.eval()


def _copy_adapter(model: Any) -> None:
    """Add a reference as TRL does: the initial state of an existing adapter."""
    for name, weight in model.named_parameters():
        if ".default." in name:
            model.get_parameter(name.replace(".default.", ".ref.")).data.copy_(weight.data)
    model.set_adapter("default")


IDS = torch.arange(3, 63)[None]
"""Tokens that every model has."""


def logits_of(model: Any, num_tokens: int) -> torch.Tensor:
    """[1, T, V]: the logits of tokens that include the last ids, which may be added tokens."""
    ids = torch.cat([IDS, torch.arange(num_tokens - 6, num_tokens)[None]], dim=1)
    with torch.no_grad():
        return model(ids.to(model.device)).logits.float().cpu()


def fake_result(bundle: Any) -> RunResult:
    """A result with the fields that the card needs."""
    return RunResult(
        status="finished",
        recipe="saved",
        model=ModelInfo(**bundle.model_info),
        steps=1,
        num_train_rows=1,
        num_eval_rows=0,
        environment=Environment(packages={"dpo-recipe": "0"}),
    )


def save_cell(architecture: str, name: str, folder: Path, bases: Path) -> Iterator[dict[str, Any]]:
    """Tune one model, save it in each of its forms, and return the logits that a reloaded model must compute."""
    from dpo_recipes.export.save import save_model

    tuning = TUNINGS[name]
    base = bases / architecture
    if not base.exists():
        save_base(architecture, base)
    for form in ("full",) if tuning.adapter == "null" else ("adapter", "merged"):
        cell = folder / form
        cell.mkdir(parents=True)
        text = recipe_of(architecture, tuning, base)
        (cell / "recipe.yaml").write_text(text.replace("{kind: lora", f"{{kind: lora, save_as: {form}"))
        recipe, bundle, model = tune(cell / "recipe.yaml")
        num_tokens = len(bundle.tokenizer)
        expected = cell / "expected.pt"
        torch.save(logits_of(model, num_tokens), expected)
        saved = save_model(model, bundle, recipe, cell, fake_result(bundle))
        yield {
            "architecture": architecture,
            "tuning": name,
            "form": saved.kind,
            "folder": str(saved.folder),
            "expected": str(expected),
            "is_quantized": tuning.quantization != "null",
        }


def reload_cells(cells: list[dict[str, Any]], scratch: Path) -> list[dict[str, Any]]:
    """Reload all models in one process without dpo-recipe. Returns the largest difference of logits of each."""
    request = scratch / "cells.json"
    request.write_text(json.dumps(cells))
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("reload_saved_models.py"), request], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
