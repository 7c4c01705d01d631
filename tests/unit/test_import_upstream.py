"""Imports agree with what the tools' own parsers read. TRL is installed here; the others need an environment of their
own, which `make test-foreign` makes, and are skipped without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from foreign_files import FILES

from dpo_recipes.share.foreign.importer import import_file

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).resolve().parents[2]
OTHER_PYTHON = Path(os.environ.get("FOREIGN_PYTHON", REPOSITORY / ".venv-foreign" / "bin" / "python"))
TRAINER = {
    "learning_rate": "training.learning_rate",
    "lr_scheduler_type": "training.lr_scheduler",
    "per_device_train_batch_size": "training.micro_batch_size",
    "gradient_accumulation_steps": "training.gradient_accumulation_steps",
    "num_train_epochs": "training.num_epochs",
    "weight_decay": "training.weight_decay",
    "max_grad_norm": "training.max_grad_norm",
    "logging_steps": "training.logging_steps",
    "save_steps": "checkpoints.save_steps",
    "seed": "training.seed",
}
LORA = {"lora_alpha": "model.adapter.alpha", "lora_dropout": "model.adapter.dropout"}
SAME: dict[str, dict[str, str]] = {
    "axolotl_dpo.yml": {
        "base_model": "model.path", "micro_batch_size": "training.micro_batch_size",
        "gradient_accumulation_steps": "training.gradient_accumulation_steps", "num_epochs": "training.num_epochs",
        "learning_rate": "training.learning_rate", "lr_scheduler": "training.lr_scheduler",
        "optimizer": "training.optimizer", "weight_decay": "training.weight_decay", "sequence_len": "data.max_length",
        "lora_r": "model.adapter.r", "rl_beta": "objective.beta", "warmup_steps": "training.warmup_steps",
        "val_set_size": "data.eval.fraction", "chat_template": "chat_template",
        "gradient_checkpointing": "training.gradient_checkpointing", **LORA,
    },
    "axolotl_kto.yml": {
        "num_epochs": "training.num_epochs", "lr_scheduler": "training.lr_scheduler",
        "optimizer": "training.optimizer", "weight_decay": "training.weight_decay", "sequence_len": "data.max_length",
        "gradient_checkpointing": "training.gradient_checkpointing",
    },
    "llama_factory_dpo.yaml": {
        "model_name_or_path": "model.path", "lora_rank": "model.adapter.r", "cutoff_len": "data.max_length",
        "pref_beta": "objective.beta", "max_samples": "data.train[0].limit", "val_size": "data.eval.fraction",
        "quantization_bit": "model.quantization.bits", "quantization_type": "model.quantization.quant_type",
        "double_quantization": "model.quantization.double_quant", "template": "chat_template",
        "warmup_ratio": "training.warmup_ratio", "eval_steps": "training.eval_steps", **TRAINER, **LORA,
    },
    "llama_factory_simpo.yaml": {
        "pref_beta": "objective.beta", "simpo_gamma": "objective.gamma", "pref_ftx": "objective.cpo_alpha",
        "cutoff_len": "data.max_length", **{key: to for key, to in TRAINER.items() if key != "logging_steps"},
    },
    "llama_factory_v1_dpo.yaml": {
        "model": "model.path", "micro_batch_size": "training.micro_batch_size", "cutoff_len": "data.max_length",
        "learning_rate": "training.learning_rate", "max_steps": "training.max_steps", "seed": "training.seed",
        "max_grad_norm": "training.max_grad_norm", "num_train_epochs": "training.num_epochs",
        "enable_activation_checkpointing": "training.gradient_checkpointing",
        "logging_steps": "training.logging_steps",
    },
    "oumi_dpo.yaml": {
        "model_name": "model.path", "lora_r": "model.adapter.r", "beta": "objective.beta",
        "max_length": "data.max_length", "q_lora_bits": "model.quantization.bits",
        "bnb_4bit_quant_type": "model.quantization.quant_type",
        "use_bnb_nested_quant": "model.quantization.double_quant",
        "bnb_4bit_compute_dtype": "model.quantization.compute_dtype",
        "gradient_checkpointing": "training.gradient_checkpointing", "optim": "training.optimizer", **TRAINER, **LORA,
    },
    "swift.yaml": {
        "lora_rank": "model.adapter.r", "simpo_gamma": "objective.gamma", "cpo_alpha": "objective.cpo_alpha",
        "gradient_checkpointing": "training.gradient_checkpointing", "optim": "training.optimizer",
        "report_to": "tracking.report_to", **TRAINER, **LORA,
    },
    "trl_dpo.yaml": {
        "model_name_or_path": "model.path", "lora_r": "model.adapter.r", "beta": "objective.beta",
        "loss_type": "objective.loss_type", "loss_weights": "objective.loss_weights", "max_length": "data.max_length",
        "warmup_steps": "training.warmup_ratio", "optim": "training.optimizer", "eval_steps": "training.eval_steps",
        "gradient_checkpointing": "training.gradient_checkpointing", "report_to": "tracking.report_to",
        **TRAINER, **LORA,
    },
}  # fmt: skip
"""The arguments of each tool that mean the same as a field of the recipe."""
OTHER_FORM = {"learning_rate": (None,), "gradient_accumulation_steps": (None,)}
"""Values that ms-swift fills in only when it has loaded the model."""


def _parsed(tool: str, path: Path) -> dict[str, Any]:
    python = Path(sys.executable) if tool == "trl" else OTHER_PYTHON
    if not python.exists():
        pytest.skip(f"{python} is not there; `make test-foreign` makes it")
    command = [str(python), str(REPOSITORY / "tests" / "foreign_parsers.py"), tool, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=path.parent, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("@")]
    assert lines, done.stderr[-2000:]
    return json.loads(lines[-1][1:])


@pytest.mark.parametrize("name", SAME)
def test_the_numbers_are_those_of_the_tools_own_parser(name: str, tmp_path: Path) -> None:
    tool, text, _ = FILES[name]
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    parsed, draft = _parsed(tool, path), import_file(path).draft
    differing = {}
    for argument, to in SAME[name].items():
        theirs, ours = parsed[argument], draft.value(to)
        if theirs in OTHER_FORM.get(argument, ()):
            continue
        if theirs != ours and not (isinstance(theirs, list) and theirs == [ours]):
            differing[argument] = (theirs, ours)
    assert differing == {}
