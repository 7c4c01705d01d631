"""Reference log-probabilities: the same as TRL's own, computed once, and found again only where they are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sharing import lora, make_model, make_pairs, recipe, train_ours, train_trls

from dpo_recipes.engine.processes import Processes
from dpo_recipes.engine.reference import batches_by_tokens, hash_pairs, pair_tokens

PAIRS = make_pairs(12)
JOB = {"max_steps": 1}


def _train(tmp_path: Path, pairs: Any = PAIRS, model: Any = None, adapter: Any = None, **job: Any) -> Any:
    objective = job.pop("objective", None)
    training = recipe({**JOB, **job}, objective)
    return train_ours(tmp_path, model or make_model(), pairs, training, adapter or lora()).trainer


def _logps(trainer: Any) -> np.ndarray:
    return np.array([trainer.train_dataset[name] for name in ("ref_chosen_logps", "ref_rejected_logps")])


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_they_are_trls_in_the_order_of_the_pairs(tmp_path: Path, adapter: str) -> None:
    adapters = [None if adapter == "full" else lora() for _ in range(2)]
    ours = train_ours(tmp_path, make_model(), PAIRS, recipe(JOB), adapters[0]).trainer
    trls = train_trls(tmp_path, make_model(), PAIRS, recipe(JOB), adapters[1]).trainer
    np.testing.assert_allclose(_logps(ours), _logps(trls), rtol=1e-5)
    assert ours.reference_known == {"train": False}


def _other_learning_rate() -> dict[str, Any]:
    return {"learning_rate": 1e-5}


def _other_adapter() -> dict[str, Any]:
    other = lora()
    other.r, other.target_modules = 2, ["q_proj"]
    return {"adapter": other}


def _other_loss() -> dict[str, Any]:
    return {"objective": {"loss_type": "ipo", "beta": 0.3}}


@pytest.mark.parametrize("change", [dict, _other_learning_rate, _other_adapter, _other_loss])
def test_a_run_that_has_the_same_reference_finds_it(tmp_path: Path, change: Callable[[], dict[str, Any]]) -> None:
    first, second = _train(tmp_path), _train(tmp_path, **change())
    assert (first.reference_known, second.reference_known) == ({"train": False}, {"train": True})
    assert np.array_equal(_logps(first), _logps(second))


def _other_weights() -> dict[str, Any]:
    model = make_model()
    with torch.no_grad():
        model.base_model.layers[1].mlp.down_proj.weight[3, 3] += 1e-3
    return {"model": model}


def _other_rotation() -> dict[str, Any]:
    return {"model": make_model(rope_parameters={"rope_type": "default", "rope_theta": 5000.0})}


def _other_order() -> dict[str, Any]:
    return {"pairs": PAIRS[::-1]}


def _other_token() -> dict[str, Any]:
    return {"pairs": [{**PAIRS[0], "chosen_ids": [5, *PAIRS[0]["chosen_ids"][1:]]}, *PAIRS[1:]]}


def _other_boundary() -> dict[str, Any]:
    """The same ids in the same order, but one of the prompt's counts as part of the answers."""
    prompt = PAIRS[0]["prompt_ids"]
    moved = {"prompt_ids": prompt[:-1], **{k: prompt[-1:] + PAIRS[0][k] for k in ("chosen_ids", "rejected_ids")}}
    return {"pairs": [moved, *PAIRS[1:]]}


@pytest.mark.parametrize("change", [_other_weights, _other_rotation, _other_order, _other_token, _other_boundary])
def test_a_run_that_has_another_reference_does_not(tmp_path: Path, change: Callable[[], dict[str, Any]]) -> None:
    first, second = _train(tmp_path), _train(tmp_path, **change())
    assert second.reference_known == {"train": False}
    assert not np.array_equal(_logps(first), _logps(second))


def test_a_damaged_entry_is_computed_again(tmp_path: Path) -> None:
    first = _train(tmp_path)
    (entry,) = (tmp_path / "cache" / "reference").glob("*/logps.npy")
    entry.write_bytes(entry.read_bytes()[:-4] + b"\0\0\0\0")
    second = _train(tmp_path)
    assert second.reference_known == {"train": False}
    assert np.array_equal(_logps(first), _logps(second))


def test_the_model_is_in_training_mode_again_afterwards(tmp_path: Path) -> None:
    model = make_model().train()
    model.base_model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    seen: list[list[bool]] = []
    from dpo_recipes.engine import reference

    class Trainer:
        ref_model = None
        is_deepspeed_enabled = False
        processes = Processes()
        data_collator = staticmethod(lambda rows: {})
        args = type("Arguments", (), {"per_device_eval_batch_size": 4})

        @staticmethod
        def compute_ref_log_probs(of: Any, batch: Any) -> Any:
            seen.append([module.training for module in of.modules()])
            raise RuntimeError("out of something")

    trainer: Any = Trainer()
    trainer.model = model
    with pytest.raises(RuntimeError):
        reference.reference_logps(trainer, PAIRS)
    assert not any(seen[0])
    assert [module.training for module in model.modules()] == modes


def test_batches_have_every_row_once_the_longest_first_and_no_more_tokens_than_an_average_batch() -> None:
    tokens = np.array([10, 500, 20, 30, 20, 20])
    batches = list(batches_by_tokens(tokens, 2))  # two average pairs have 200 tokens
    assert batches == [[1], [3, 2, 4, 5, 0]]
    assert sorted(row for batch in batches for row in batch) == list(range(6))


def test_tokens_of_a_pair_count_its_prompt_once() -> None:
    assert pair_tokens([{"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5]}]).tolist() == [5]


def test_digests_tell_where_one_list_ends() -> None:
    one = [{"prompt_ids": [1, 1], "chosen_ids": [1], "rejected_ids": [1]}]
    other = [{"prompt_ids": [1], "chosen_ids": [1, 1], "rejected_ids": [1]}]
    assert hash_pairs(one) != hash_pairs(other)
