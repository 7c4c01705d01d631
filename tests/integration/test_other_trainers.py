"""Prefix sharing knows nothing of DPO: TRL's other trainers of pairs learn the same with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sharing import make_model
from tiny import make_tokenizer

from dpo_recipes.engine.prefix_sharing import PrefixSharing, share_prefixes
from dpo_recipes.engine.versions import checkpointing_argument

SETTINGS = {
    "per_device_train_batch_size": 4, "max_steps": 5, "learning_rate": 1e-3, "logging_steps": 1, "use_cpu": True,
    "report_to": "none", "save_strategy": "no", "max_length": 64, "bf16": False, "disable_tqdm": True,
    checkpointing_argument(): False,
}  # fmt: skip


def _pairs() -> Any:
    from datasets import Dataset

    rows = [
        {
            "prompt": f"What is {n} plus one?" * (1 + n % 3),
            "chosen": f" {n + 1}.",
            "rejected": " Many things." * (n % 4),
        }
        for n in range(20)
    ]
    return Dataset.from_list(rows)


def _orpo(model: Any, folder: str) -> Any:
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    args = ORPOConfig(folder, **SETTINGS)
    return ORPOTrainer(model=model, args=args, train_dataset=_pairs(), processing_class=make_tokenizer())


def _cpo(model: Any, folder: str) -> Any:
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    args = CPOConfig(folder, loss_type="simpo", cpo_alpha=0.0, **SETTINGS)
    return CPOTrainer(model=model, args=args, train_dataset=_pairs(), processing_class=make_tokenizer())


def _reward(model: Any, folder: str) -> Any:
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    args = RewardConfig(folder, **SETTINGS)
    return RewardTrainer(model=model, args=args, train_dataset=_pairs(), processing_class=make_tokenizer())


def _scorer() -> Any:
    from transformers import AutoModelForSequenceClassification

    config = make_model().config
    config.num_labels = 1
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config)


@pytest.mark.parametrize("kind", ["orpo", "simpo", "reward model"])
def test_losses_are_the_same(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    build = {"orpo": _orpo, "simpo": _cpo, "reward model": _reward}[kind]
    losses: list[list[float]] = []
    sharing: PrefixSharing | None = None
    for shares in (False, True):
        model = _scorer() if kind == "reward model" else make_model()
        if shares:
            sharing = share_prefixes(model, "on")
        trainer = build(model, str(tmp_path))
        trainer.train()
        losses.append([row["loss"] for row in trainer.state.log_history if "loss" in row])
    assert len(losses[0]) == 5, json.dumps(trainer.state.log_history)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert sharing is not None
    assert sharing.trained.packed_batches == sharing.trained.batches == 5
    assert sharing.trained.share_saved > 0.2
