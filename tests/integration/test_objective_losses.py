"""The losses, metrics and gradients of the objectives equal those of TRL 1.16's trainers on the same random logits.

TRL's trainers are built without their constructors, with the attributes that their losses read, and a model that
returns given logits. Where TRL has a fault, a test states it and compares with the fault switched on.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trl.trainer.kto_trainer import KTOTrainer
from trl.trainer.reward_trainer import RewardTrainer
from trl.trainer.sft_trainer import SFTTrainer

from dpo_recipes.objectives import cpo, kto, orpo, reward, sft
from dpo_recipes.objectives.base import Loss, Objective, Scores

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # `trl.experimental` warns that it may change
    from trl.experimental.cpo import CPOConfig, CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

RTOL, ATOL = 1e-5, 1e-6
VOCABULARY, ROWS = 31, 4
ACCELERATOR = SimpleNamespace(
    device=torch.device("cpu"),
    gather=lambda tensor: tensor,
    gather_for_metrics=lambda tensor: tensor,
    parallelism_config=None,
    num_processes=1,
)


@dataclass
class Batch:
    """Sequences in the engine's order (all first answers, then all second ones), padded on the right."""

    ids: torch.Tensor
    attention: torch.Tensor
    completion: torch.Tensor
    logits: torch.Tensor

    @property
    def labels(self) -> torch.Tensor:
        return self.ids.masked_fill(self.completion == 0, -100)

    def logps_per_token(self) -> torch.Tensor:
        """[S, L - 1]: the log-probability of each token but the first."""
        return self.logits[:, :-1].log_softmax(-1).gather(2, self.ids[:, 1:, None]).squeeze(2)


def make_batch(answers: int, rows: int = ROWS, seed: int = 0, scale: float = 2.0) -> Batch:
    """Random prompts of 2 to 4 tokens with answers of 1 to 6 tokens each."""
    random = torch.Generator().manual_seed(seed)
    prompts = torch.randint(2, 5, (rows,), generator=random).repeat(answers)
    ends = prompts + torch.randint(1, 7, (rows * answers,), generator=random)
    positions = torch.arange(int(ends.max()))[None]
    ids = torch.randint(1, VOCABULARY, (rows * answers, positions.shape[1]), generator=random)
    attention = (positions < ends[:, None]).long()
    completion = attention * (positions >= prompts[:, None])
    logits = scale * torch.randn(*ids.shape, VOCABULARY, generator=random)
    return Batch(ids * attention, attention, completion, logits.requires_grad_())


def make_scores(batch: Batch, answers: int, **others: Any) -> Scores:
    """What the engine computes from the logits."""
    logps, trained = batch.logps_per_token(), batch.completion[:, 1:]
    prompt = batch.attention[:, 1:] - trained

    def by_answer(values: torch.Tensor) -> torch.Tensor:
        return values.sum(1).float().reshape(answers, -1).T

    distribution = batch.logits[:, :-1].log_softmax(-1)
    return Scores(
        logps=by_answer(logps * trained),
        num_tokens=by_answer(trained),
        prompt_logps=by_answer(logps * prompt)[:, 0],
        num_prompt_tokens=by_answer(prompt)[:, 0],
        entropies=by_answer(-(distribution.exp() * distribution).sum(-1) * trained),
        num_correct=by_answer((distribution.argmax(-1) == batch.ids[:, 1:]) * trained),
        **others,
    )


def step_loss(loss: Loss, num_items: float | None = None) -> torch.Tensor:
    """What the engine makes of a step with one micro-batch; `num_items` are the step's tokens for a mean over them."""
    return loss.per_row.mean() if num_items is None else loss.per_row.sum() / num_items


def mean_of(loss: Loss, key: str) -> float:
    """The metric as the engine logs it."""
    values = loss.metrics[key]
    mean = values[0].sum() / values[1].sum() if isinstance(values, tuple) else values.mean()
    return mean.item()


def assert_same(
    objective: Objective,
    ours: Loss,
    theirs: torch.Tensor,
    their_metrics: dict[str, float],
    leaf: torch.Tensor,
    *,
    without: set[str] | None = None,
    num_items: float | None = None,
) -> None:
    """The same loss, gradients and metrics; TRL's metrics named `without` are not compared."""
    mine = step_loss(ours, num_items)
    torch.testing.assert_close(mine, theirs, rtol=RTOL, atol=ATOL)
    (my_gradient,) = torch.autograd.grad(mine, leaf, retain_graph=True)
    (their_gradient,) = torch.autograd.grad(theirs, leaf)
    assert my_gradient.abs().max() > 0
    torch.testing.assert_close(my_gradient, their_gradient, rtol=RTOL, atol=ATOL)
    keys = {metric.key for metric in objective.metrics} - {"loss"}
    assert set(ours.metrics) == keys
    tensors = [each for values in ours.metrics.values() for each in (values if isinstance(values, tuple) else [values])]
    assert not any(tensor.requires_grad for tensor in tensors)
    compared = keys & set(their_metrics) - (without or set())
    assert compared
    for key in compared:
        assert mean_of(ours, key) == pytest.approx(their_metrics[key], rel=RTOL, abs=ATOL), key


def pair_trainer(trainer_class: Any, batch: Batch, **attributes: Any) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss and metrics of TRL's ORPO or CPO trainer."""
    trainer = trainer_class.__new__(trainer_class)
    defaults = {"is_encoder_decoder": False, "padding_value": 0, "pad_token_id": 0, "aux_loss_enabled": False}
    for name, value in {**defaults, "accelerator": ACCELERATOR, **attributes}.items():
        setattr(trainer, name, value)
    inputs = {}
    for position, side in enumerate(("chosen", "rejected")):
        rows = slice(position * ROWS, (position + 1) * ROWS)
        inputs[f"{side}_input_ids"] = batch.ids[rows]
        inputs[f"{side}_attention_mask"] = batch.attention[rows]
        inputs[f"{side}_labels"] = batch.labels[rows]
    return trainer.get_batch_loss_metrics(lambda *_, **__: SimpleNamespace(logits=batch.logits), inputs)


@pytest.mark.parametrize("beta", [0.1, 1.0])
@pytest.mark.parametrize("scale", [0.1, 2.0, 8.0])
def test_orpo(beta: float, scale: float) -> None:
    """TRL's log-likelihood covers the prompt too: `nll_on_prompt` switches this on."""
    batch, objective = make_batch(2, scale=scale), orpo.OBJECTIVE
    theirs, metrics = pair_trainer(ORPOTrainer, batch, beta=beta)
    params = orpo.OrpoParams(kind="orpo", beta=beta, nll_on_prompt=True)
    assert_same(objective, objective.loss(params, make_scores(batch, 2)), theirs, metrics, batch.logits)


def test_orpo_leaves_the_prompt_out_of_the_log_likelihood() -> None:
    """As in the paper; everything else equals TRL's."""
    batch, objective = make_batch(2), orpo.OBJECTIVE
    theirs, metrics = pair_trainer(ORPOTrainer, batch, beta=0.1)
    ours = objective.loss(orpo.OrpoParams(kind="orpo"), make_scores(batch, 2))
    chosen = batch.completion[:ROWS, 1:]
    nll = -(batch.logps_per_token()[:ROWS] * chosen).sum() / chosen.sum()
    assert mean_of(ours, "nll_loss") == pytest.approx(nll.item(), rel=RTOL)
    assert abs(metrics["nll_loss"] - nll.item()) > 0.01
    with_our_nll = theirs - metrics["nll_loss"] + nll
    assert step_loss(ours).item() == pytest.approx(with_our_nll.item(), rel=RTOL)


def test_orpo_is_finite_where_an_answer_is_certain() -> None:
    """TRL returns NaN: the odds of a probability of 1 are infinite."""
    logps = torch.tensor([[0.0, -3.0]], requires_grad=True)
    counts = torch.tensor([[2.0, 3.0]])
    loss = orpo.OBJECTIVE.loss(orpo.OrpoParams(kind="orpo"), Scores(logps=logps, num_tokens=counts))
    assert loss.per_row.isfinite().all()
    (gradient,) = torch.autograd.grad(loss.per_row.sum(), logps)
    assert gradient.isfinite().all()
    trainer = ORPOTrainer.__new__(ORPOTrainer)
    trainer.beta, trainer.accelerator = 0.1, ACCELERATOR
    theirs, *_ = trainer.odds_ratio_loss(logps[:, 0], logps[:, 1])
    (gradient,) = torch.autograd.grad(theirs.sum(), logps)
    assert gradient.isnan().any()


@pytest.mark.parametrize("cpo_alpha", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(("loss_type", "smoothing"), [("sigmoid", 0.0), ("sigmoid", 0.2), ("hinge", 0.0), ("ipo", 0.0)])
@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_cpo(loss_type: Any, smoothing: float, beta: float, cpo_alpha: float) -> None:
    batch, objective = make_batch(2, seed=1), cpo.CPO
    shared: dict[str, Any] = {
        "beta": beta,
        "loss_type": loss_type,
        "label_smoothing": smoothing,
        "cpo_alpha": cpo_alpha,
    }
    theirs, metrics = pair_trainer(CPOTrainer, batch, alpha=0.0, **shared)
    ours = objective.loss(cpo.CpoParams(kind="cpo", **shared), make_scores(batch, 2))
    assert_same(objective, ours, theirs, metrics, batch.logits, without=set() if cpo_alpha else {"nll_loss"})


@pytest.mark.parametrize("alpha", [0.0, 0.25, -0.5])
@pytest.mark.parametrize(("gamma", "smoothing"), [(0.0, 0.0), (0.5, 0.0), (1.5, 0.1)])
@pytest.mark.parametrize("beta", [2.0, 10.0])
@pytest.mark.parametrize("cpo_alpha", [0.0, 1.0])
def test_simpo(cpo_alpha: float, beta: float, gamma: float, smoothing: float, alpha: float) -> None:
    batch, objective = make_batch(2, seed=2, scale=1.0), cpo.SIMPO
    shared = {"beta": beta, "label_smoothing": smoothing, "cpo_alpha": cpo_alpha, "alpha": alpha}
    theirs, metrics = pair_trainer(CPOTrainer, batch, loss_type="simpo", simpo_gamma=gamma, **shared)
    ours = objective.loss(cpo.SimpoParams(kind="simpo", gamma=gamma, **shared), make_scores(batch, 2))
    assert_same(objective, ours, theirs, metrics, batch.logits, without=set() if cpo_alpha else {"nll_loss"})


def test_simpo_has_no_log_likelihood_by_default() -> None:
    """The paper has none. TRL's CPOConfig adds it with a weight of 1 unless `cpo_alpha` is 0."""
    assert CPOConfig.__dataclass_fields__["cpo_alpha"].default == 1.0
    batch, params = make_batch(2), cpo.SimpoParams(kind="simpo")
    settings = {"loss_type": "simpo", "beta": params.beta, "simpo_gamma": params.gamma, "label_smoothing": 0.0}
    theirs, metrics = pair_trainer(CPOTrainer, batch, cpo_alpha=1.0, alpha=0.0, **settings)
    ours = step_loss(cpo.SIMPO.loss(params, make_scores(batch, 2)))
    assert (theirs - ours).item() == pytest.approx(metrics["nll_loss"], rel=RTOL)


def test_simpo_with_the_hinge_of_its_authors() -> None:
    """relu(1 - beta × (difference - gamma / beta)), as in the authors' code; TRL's hinge has no margin."""
    scores = Scores(logps=torch.tensor([[-4.0, -9.0], [-6.0, -2.0]]), num_tokens=torch.tensor([[4.0, 3.0], [2.0, 2.0]]))
    params = cpo.SimpoParams(kind="simpo", loss_type="hinge", beta=0.4, gamma=0.2)
    assert cpo.SIMPO.loss(params, scores).per_row.tolist() == pytest.approx([1 - 0.4 * 2 + 0.2, 1 + 0.4 * 2 + 0.2])


def kto_trainer(own: Batch, other: Batch, scores: Scores, params: kto.KtoParams) -> tuple[torch.Tensor, dict[str, Any]]:
    """The loss and metrics of TRL's KTO trainer with precomputed reference log-probabilities."""
    trainer = KTOTrainer.__new__(KTOTrainer)
    settings: dict[str, Any] = params.model_dump(exclude={"kind"})
    settings |= {"calculate_KL": params.loss_type == "kto", "precompute_ref_logps": True, "aux_loss_enabled": False}
    settings |= {"accelerator": ACCELERATOR, "model": SimpleNamespace(training=False)}
    settings |= {"_metrics": {"eval": defaultdict(list)}, "_total_train_tokens": 0, "_tp_size": 1}
    for name, value in settings.items():
        setattr(trainer, name, value)

    def model(input_ids: torch.Tensor, labels: torch.Tensor, **_: Any) -> SimpleNamespace:
        batch = own if input_ids is own.ids else other
        zeros = torch.zeros(len(labels), labels.shape[1] - 1)
        return SimpleNamespace(
            log_probs=batch.logps_per_token() * (labels[:, 1:] != -100), entropy=zeros, mean_logits=zeros
        )

    assert scores.reference_logps is not None
    inputs = {
        "input_ids": own.ids,
        "attention_mask": own.attention,
        "completion_mask": own.completion,
        "KL_input_ids": other.ids,
        "KL_attention_mask": other.attention,
        "KL_completion_mask": other.completion,
        "label": scores.labels,
        "ref_logps": scores.reference_logps[:, 0],
        "ref_KL_logps": scores.reference_logps[:, 1],
    }
    loss = trainer._compute_loss(model, inputs, return_outputs=False)
    return loss, {key: values[-1] for key, values in trainer._metrics["eval"].items()}


def kto_scores(labels: list[bool], shift: float, **others: Any) -> tuple[Batch, Batch, Scores]:
    """Rows with a mismatched answer each; `shift` moves the reference, and with it the KL estimate."""
    own, other = make_batch(1, len(labels), seed=3), make_batch(1, len(labels), seed=4)
    first, second = make_scores(own, 1), make_scores(other, 1)
    assert first.logps is not None
    assert second.logps is not None
    logps = torch.cat([first.logps, second.logps], dim=1)
    noise = torch.randn(logps.shape, generator=torch.Generator().manual_seed(5))
    return (
        own,
        other,
        Scores(logps=logps, reference_logps=logps.detach() + noise + shift, labels=torch.tensor(labels), **others),
    )


MIXED = [True, False, False, True, True, False]


@pytest.mark.parametrize("labels", [MIXED, [True] * 4, [False] * 4], ids=["mixed", "good", "bad"])
@pytest.mark.parametrize("shift", [-3.0, 3.0], ids=["kl above 0", "kl clamped"])
@pytest.mark.parametrize("loss_type", ["kto", "apo_zero_unpaired"])
@pytest.mark.parametrize(("beta", "weights"), [(0.1, (1.0, 1.0)), (0.5, (0.3, 1.7))])
def test_kto(loss_type: Any, beta: float, weights: tuple[float, float], labels: list[bool], shift: float) -> None:
    own, other, scores = kto_scores(labels, shift)
    params = kto.KtoParams(
        kind="kto", loss_type=loss_type, beta=beta, desirable_weight=weights[0], undesirable_weight=weights[1]
    )
    theirs, metrics = kto_trainer(own, other, scores, params)
    assert (metrics["kl"] > 0) == (shift < 0 and loss_type == "kto")
    if loss_type != "kto":
        scores.logps, scores.reference_logps = scores.logps[:, :1], scores.reference_logps[:, :1]  # type: ignore[index]
    ours = kto.OBJECTIVE.loss(params, scores)
    assert_same(kto.OBJECTIVE, ours, theirs, metrics, own.logits)
    missing = {key for key in ("rewards/chosen", "rewards/rejected", "rewards/margins") if key not in metrics}
    assert all(len(ours.metrics[key]) == 0 for key in missing)


def test_the_kl_estimate_of_kto_has_no_gradient() -> None:
    _, other, scores = kto_scores(MIXED, -3.0)
    loss = step_loss(kto.OBJECTIVE.loss(kto.KtoParams(kind="kto"), scores))
    (gradient,) = torch.autograd.grad(loss, other.logits, allow_unused=True)
    assert gradient is None or not gradient.any()


def test_the_accuracy_of_kto_is_the_share_on_the_right_side_of_the_kl_estimate() -> None:
    """A KL estimate of 1: of the good answers only that of 3 is above it, of the bad ones only that of 0.5 below."""
    reference = torch.zeros(4, 2)
    logps = torch.tensor([[3.0, 1.0], [0.5, 1.0], [2.0, 1.0], [0.5, 1.0]])
    scores = Scores(logps=logps, reference_logps=reference, labels=torch.tensor([True, True, False, False]))
    metrics = kto.OBJECTIVE.loss(kto.KtoParams(kind="kto"), scores).metrics
    assert metrics["rewards/accuracies"].tolist() == [1.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("num_items", [None, 40])
def test_sft(num_items: int | None) -> None:
    """`num_items` is the number of tokens of an optimizer step with more than one micro-batch."""
    batch, objective = make_batch(1, seed=6), sft.OBJECTIVE
    mask = batch.completion[:, 1:]
    distribution = batch.logits[:, :-1].log_softmax(-1)
    outputs = SimpleNamespace(
        log_probs=batch.logps_per_token() * mask,
        label_mask=mask,
        entropy=-(distribution.exp() * distribution).sum(-1) * mask,
        is_top1=(distribution.argmax(-1) == batch.ids[:, 1:]) * mask,
    )
    trainer = SFTTrainer.__new__(SFTTrainer)
    trainer.args = SimpleNamespace(loss_type="nll", average_tokens_across_devices=False)
    trainer.model, trainer.accelerator = SimpleNamespace(training=False), ACCELERATOR
    trainer.aux_loss_enabled, trainer.compute_loss_func, trainer.label_smoother = False, None, None
    trainer._metrics, trainer._total_train_tokens = {"eval": defaultdict(list)}, 0
    theirs = trainer.compute_loss(lambda **_: outputs, {"labels": batch.labels}, num_items_in_batch=num_items)
    metrics = {key: values[-1] for key, values in trainer._metrics["eval"].items()}
    ours = objective.loss(sft.SftParams(kind="sft"), make_scores(batch, 1))
    trained = float(mask.sum())
    assert_same(objective, ours, theirs, metrics, batch.logits, num_items=num_items or trained)


@pytest.mark.parametrize("coefficient", [0.0, 0.01, 0.5])
@pytest.mark.parametrize("margins", [None, [0.0, 1.0, 2.5, 0.3]], ids=["no margins", "margins"])
def test_reward(coefficient: float, margins: list[float] | None) -> None:
    logits = torch.randn(2 * ROWS, 1, generator=torch.Generator().manual_seed(7)).requires_grad_()
    inputs: dict[str, Any] = {} if margins is None else {"margin": torch.tensor(margins)}
    trainer = RewardTrainer.__new__(RewardTrainer)
    trainer.args = SimpleNamespace(center_rewards_coefficient=coefficient or None)
    trainer.model, trainer.accelerator = SimpleNamespace(training=False), ACCELERATOR
    trainer._metrics, trainer._total_train_tokens = {"eval": defaultdict(list)}, 0
    theirs = trainer.compute_loss(lambda **_: SimpleNamespace(logits=logits), dict(inputs))
    metrics = {key: values[-1] for key, values in trainer._metrics["eval"].items()}
    scores = Scores(values=logits.reshape(2, ROWS).T, margins=inputs.get("margin"))
    params = reward.RewardParams(kind="reward", center_rewards_coefficient=coefficient)
    assert_same(reward.OBJECTIVE, reward.OBJECTIVE.loss(params, scores), theirs, metrics, logits)


PAIRS = [orpo.OBJECTIVE, cpo.CPO, cpo.SIMPO]
ALL = [*PAIRS, kto.OBJECTIVE, sft.OBJECTIVE, reward.OBJECTIVE]


def any_scores(objective: Objective, weights: torch.Tensor | None = None) -> Scores:
    if objective is kto.OBJECTIVE:
        return kto_scores(MIXED[:ROWS], -3.0, weights=weights)[2]
    scores = make_scores(make_batch(2), 2, weights=weights)
    scores.values = scores.logps
    return scores


@pytest.mark.parametrize("objective", ALL, ids=lambda objective: objective.kind)
def test_a_weight_multiplies_the_loss_of_its_row(objective: Objective) -> None:
    params = objective.params(kind=objective.kind)
    plain = objective.loss(params, any_scores(objective))
    weights = torch.tensor([1.0, 0.0, 2.0, 0.5])
    weighted = objective.loss(params, any_scores(objective, weights))
    torch.testing.assert_close(weighted.per_row, plain.per_row * weights)
    assert plain.per_row.shape == (ROWS,)
    assert math.isfinite(step_loss(plain).item())


@pytest.mark.parametrize("objective", ALL, ids=lambda objective: objective.kind)
def test_a_micro_batch_changes_the_loss_exactly_if_the_objective_says_so(objective: Objective) -> None:
    """The gradient of a step with one micro-batch, against that of the same rows in two micro-batches of unequal
    answers. An objective that couples rows or averages tokens must keep its micro-batch."""
    params = objective.params(kind=objective.kind)
    scores = any_scores(objective)
    num_items = 7.0 if objective.loss_mean == "tokens" else None
    whole = step_loss(objective.loss(params, scores), num_items)
    parts = [objective.loss(params, _rows(scores, rows)).per_row for rows in (slice(0, 1), slice(1, None))]
    split = torch.cat(parts).mean() if num_items is None else torch.cat(parts).sum() / num_items
    depends = objective.couples_batch(params) or objective.averages_tokens(params)
    assert torch.isclose(whole, split, rtol=1e-5) != depends


def _rows(scores: Scores, rows: slice) -> Scores:
    cut = {name: value[rows] for name, value in vars(scores).items() if isinstance(value, torch.Tensor)}
    return Scores(**cut)
