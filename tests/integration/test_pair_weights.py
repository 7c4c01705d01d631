"""The weight of a pair multiplies its loss, whatever the loss and the division into micro-batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sharing import lora, make_model, make_pairs, recipe, train_ours

PAIRS = make_pairs(8, prompts=(3, 12), answers=(4, 9, 20), same_starts=(0, 3))
WEIGHTS = [1.0, 0.0, 2.0, 0.5, 1.5, 0.25, 3.0, 1.0]


def weigh(pairs: list[dict[str, Any]], weights: list[float]) -> list[dict[str, Any]]:
    return [{**pair, "weight": weight} for pair, weight in zip(pairs, weights, strict=True)]


def trained(folder: Path, objective: dict[str, Any], pairs: list[dict[str, Any]], **training: Any) -> Any:
    """The trainer after some steps: away from its start, losses differ between pairs."""
    settings = {"max_steps": 2, "learning_rate": 1e-2, **training}
    return train_ours(folder, make_model(), pairs, recipe(settings, objective), lora(), eval=pairs)


def loss_of(trainer: Any, rows: list[dict[str, Any]], weights: list[float] | None = None) -> torch.Tensor:
    """The trainer's loss of some rows as one micro-batch."""
    return trainer.compute_loss(trainer.model, trainer.data_collator(rows if weights is None else weigh(rows, weights)))


def gradients_of(trainer: Any, rows: list[dict[str, Any]], weights: list[float] | None = None) -> torch.Tensor:
    trainer.model.zero_grad()
    loss_of(trainer, rows, weights).backward()
    gradients = [parameter.grad.flatten() for parameter in trainer.model.parameters() if parameter.requires_grad]
    return torch.cat(gradients)


LOSSES: list[dict[str, Any]] = [
    *({"loss_type": loss} for loss in ("sigmoid", "hinge", "ipo", "nca_pair", "bco_pair", "sppo_hard", "apo_zero")),
    *({"loss_type": loss} for loss in ("apo_down", "discopop", "sigmoid_norm")),
    {"loss_type": "exo_pair", "label_smoothing": 1e-3},
    {"loss_type": "robust", "label_smoothing": 0.1},
    {"f_divergence_type": "js_divergence", "ld_alpha": 0.5},
    {"loss_type": ["sigmoid", "bco_pair"], "loss_weights": [0.8, 0.3]},
    {"use_weighting": True},
    {"loss_type": ["sigmoid", "bco_pair"], "use_weighting": True},
]


@pytest.mark.parametrize("objective", LOSSES, ids=str)
def test_the_loss_is_the_mean_of_weighted_losses(tmp_path: Path, objective: dict[str, Any]) -> None:
    """Each pair alone has the loss that TRL gives it, without a weight."""
    trainer = trained(tmp_path, objective, PAIRS).trainer
    rows = list(trainer.train_dataset)
    alone = torch.stack([loss_of(trainer, [row]).detach() for row in rows])
    assert alone.std() > 1e-6
    expected = (alone * torch.tensor(WEIGHTS)).mean()
    torch.testing.assert_close(loss_of(trainer, rows, WEIGHTS), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss_of(trainer, rows), alone.mean(), rtol=1e-5, atol=1e-6)


def test_the_sigmoid_loss_by_hand(tmp_path: Path) -> None:
    """w · -log sigmoid(beta · (ratio of the chosen answer - ratio of the rejected one)), from the model's plain logits,
    at the start of the third step."""
    result = trained(tmp_path, {"beta": 0.3}, PAIRS)
    before, after = (answer_logps(model) for model in (make_model(), result.trainer.model))
    ratios = after - before
    losses = np.log1p(np.exp(-0.3 * (ratios[:, 0] - ratios[:, 1])))
    loss = loss_of(result.trainer, list(result.trainer.train_dataset), WEIGHTS)
    assert float(loss.detach()) == pytest.approx(np.mean(np.array(WEIGHTS) * losses), rel=1e-4)


@torch.no_grad()
def answer_logps(model: Any) -> np.ndarray:
    """[pairs, 2]: the sums of log-probabilities of each answer's tokens."""
    sums = []
    for pair in PAIRS:
        prompt = pair["prompt_ids"]
        for answer in pair["answer_ids"]:
            logps = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            sums.append(float(logps.gather(1, torch.tensor(answer)[:, None]).sum()))
    return np.array(sums).reshape(-1, 2)


def test_a_mean_over_tokens_has_weighted_tokens(tmp_path: Path) -> None:
    """The loss `sft` is one mean over the tokens of all chosen answers: Σ w · -log p / number of tokens."""
    objective = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7]}
    trainer = trained(tmp_path, objective, PAIRS).trainer
    rows = list(trainer.train_dataset)
    lengths = torch.tensor([len(row["answer_ids"][0]) for row in rows])
    trainer.loss_weights = [1.0, 0.0]
    sigmoid = torch.stack([loss_of(trainer, [row]).detach() for row in rows])
    trainer.loss_weights = [0.0, 0.7]
    sft = torch.stack([loss_of(trainer, [row]).detach() for row in rows]) * lengths / lengths.sum()
    trainer.loss_weights = [1.0, 0.7]
    weights = torch.tensor(WEIGHTS)
    expected = (sigmoid * weights).mean() + (sft * weights).sum()
    torch.testing.assert_close(loss_of(trainer, rows, WEIGHTS), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "objective", [{}, {"loss_type": ["ipo", "sft"]}, {"use_weighting": True}, {"loss_type": "bco_pair"}], ids=str
)
def test_weights_of_one_change_no_bit(tmp_path: Path, objective: dict[str, Any]) -> None:
    plain = trained(tmp_path / "plain", objective, PAIRS)
    ones = trained(tmp_path / "ones", objective, weigh(PAIRS, [1.0] * 8))
    assert torch.equal(plain.weights, ones.weights)
    timed = ("runtime", "per_second")
    plain.trainer.evaluate()
    ones.trainer.evaluate()
    assert "eval_loss" in ones.trainer.state.log_history[-1]
    for mine, other in zip(plain.trainer.state.log_history, ones.trainer.state.log_history, strict=True):
        assert {name: value for name, value in mine.items() if not name.endswith(timed)} == {
            name: value for name, value in other.items() if not name.endswith(timed)
        }


def test_a_weight_of_0_is_a_pair_without_a_gradient(tmp_path: Path) -> None:
    trainer = trained(tmp_path, {"loss_type": ["sigmoid", "apo_zero"]}, PAIRS).trainer
    rows = list(trainer.train_dataset)[:4]
    without = gradients_of(trainer, [rows[0], rows[1], rows[3]]) * 3 / 4
    torch.testing.assert_close(gradients_of(trainer, rows, [1.0, 1.0, 0.0, 1.0]), without, rtol=1e-4, atol=1e-6)
    assert not gradients_of(trainer, rows, [0.0] * 4).any()
    assert gradients_of(trainer, rows).norm() > 1e-3


@pytest.mark.parametrize(
    "division",
    [
        {"micro_batch_size": 2, "gradient_accumulation_steps": 2},
        {"max_tokens_per_pass": 100, "micro_batch_size": 2, "gradient_accumulation_steps": 2},
        {"prefix_sharing": "off"},
    ],
    ids=str,
)
def test_no_division_changes_the_steps(tmp_path: Path, division: dict[str, Any]) -> None:
    pairs = weigh(PAIRS, WEIGHTS)
    whole = trained(tmp_path / "whole", {}, pairs, max_steps=4)
    other = trained(tmp_path / "other", {}, pairs, max_steps=4, **division)
    assert torch.allclose(whole.weights, other.weights, atol=2e-4)
    for name in ("loss", "grad_norm", "rewards/margins"):
        expected, found = ([row[name] for row in each.rows] for each in (whole, other))
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-5), name
    expected, found = (each.trainer.evaluate()["eval_loss"] for each in (whole, other))
    assert found == pytest.approx(expected, rel=1e-3)
    weighted = loss_of(other.trainer, list(other.trainer.eval_dataset)).detach()
    assert found == pytest.approx(float(weighted), rel=1e-3)
    plain = trained(tmp_path / "plain", {}, PAIRS, max_steps=4)
    assert plain.rows[0]["loss"] == pytest.approx(np.log(2), rel=1e-5)
    assert whole.rows[0]["loss"] != pytest.approx(np.log(2), rel=1e-2)
