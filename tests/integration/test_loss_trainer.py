"""The engine's own trainer takes the steps of TRL 1.16's trainers, and its metrics do not depend on micro-batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sharing import lora, make_model, make_pairs, recipe, train_ours, train_referee

from dpo_recipes.objectives import objective_of

RTOL = 1e-4
_REWARDS = ("margin", "mean_reward", "min_reward", "max_reward")


def rows_of(job: Any) -> list[dict[str, Any]]:
    """Rows with one answer or two, and with labels if the objective reads them."""
    objective, rows = objective_of(job), make_pairs()
    count = objective.batch_shape(job.objective).num_answers
    rows = [{**row, "answer_ids": row["answer_ids"][:count]} for row in rows]
    if "margin" in objective.row_numbers:
        rows = [{**row, "margin": place % 4 / 2} for place, row in enumerate(rows)]
    return [{**row, "label": place % 3 > 0} for place, row in enumerate(rows)] if objective.rows == "labelled" else rows


CASES: list[tuple[str, dict[str, Any]]] = [
    # TRL's likelihood covers the prompt, in which it differs from the paper.
    ("orpo", {"nll_on_prompt": True}),
    ("cpo", {}),
    ("cpo", {"loss_type": "hinge", "cpo_alpha": 0.3}),
    ("cpo", {"loss_type": "ipo"}),
    ("simpo", {}),
    ("simpo", {"gamma": 1.2, "cpo_alpha": 1.0, "label_smoothing": 0.1}),
    ("sft", {}),
    ("kto", {}),
    ("kto", {"loss_type": "apo_zero_unpaired", "desirable_weight": 1.3}),
    ("reward", {}),
    ("reward", {"center_rewards_coefficient": 0.01}),
]


def compare(mine: Any, theirs: Any, job: Any) -> None:
    """The same steps: each metric that both log, gradients and the way of the weights."""
    assert len(mine.rows) == len(theirs.rows) == 20
    compared = {"grad_norm", *(metric.key for metric in objective_of(job).metrics)}
    if job.training.gradient_accumulation_steps > 1:
        compared = {"loss", "grad_norm"}  # TRL takes means over micro-batches, ours are over rows or tokens
    if getattr(job.objective, "cpo_alpha", 1.0) == 0.0:
        compared.remove("nll_loss")  # TRL logs 0 if it is not part of the loss
    for number, (row, other) in enumerate(zip(mine.rows, theirs.rows, strict=True)):
        shared = compared & row.keys() & other.keys()
        assert {"loss", "grad_norm"} <= shared
        for key in shared:
            # Rewards of a scoring head cross 0: their error is relative to the largest one of the step.
            rewards = [other[name] for name in ("min_reward", "max_reward") if key in _REWARDS]
            least = max(1e-5, RTOL * max(map(abs, rewards), default=0.0))
            assert row[key] == pytest.approx(other[key], rel=RTOL, abs=least), (number, key)
    way = (theirs.weights - theirs.start).norm()
    assert (mine.weights - theirs.weights).norm() < 1e-3 * way


@pytest.mark.parametrize(("kind", "params"), CASES, ids=str)
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
def test_twenty_steps_equal_those_of_trl(tmp_path: Path, architecture: str, kind: str, params: dict[str, Any]) -> None:
    job = recipe({}, {"kind": kind, **params})
    rows = rows_of(job)
    head = objective_of(job).head
    mine = train_ours(tmp_path / "ours", make_model(architecture, head), rows, job)
    theirs = train_referee(tmp_path / "theirs", make_model(architecture, head), rows, job)
    compare(mine, theirs, job)
    assert mine.trainer.prefix_sharing.trained.packed_batches > 0


def test_an_encoder_takes_the_steps_of_trl(tmp_path: Path) -> None:
    job = recipe({}, {"kind": "reward"})
    rows = rows_of(job)
    mine = train_ours(tmp_path / "ours", make_model("bert", "score"), rows, job)
    theirs = train_referee(tmp_path / "theirs", make_model("bert", "score"), rows, job)
    compare(mine, theirs, job)
    assert mine.trainer.prefix_sharing.refusal is not None


def test_passes_of_an_encoder_change_nothing(tmp_path: Path) -> None:
    kind = {"kind": "reward"}
    whole, divided = recipe({"max_steps": 4}, kind), recipe({"max_steps": 4, "max_tokens_per_pass": 130}, kind)
    rows = rows_of(whole)
    one = train_ours(tmp_path / "one", make_model("bert", "score"), rows, whole)
    many = train_ours(tmp_path / "many", make_model("bert", "score"), rows, divided)
    assert many.trainer.prefix_sharing.trained.computed < one.trainer.prefix_sharing.trained.computed
    # Weights are not compared: the gradient of a key's bias is 0 but for rounding, which Adam scales up.
    for row, other in zip(one.rows, many.rows, strict=True):
        assert other["loss"] == pytest.approx(row["loss"], rel=RTOL)
        assert other["grad_norm"] == pytest.approx(row["grad_norm"], rel=RTOL)


@pytest.mark.parametrize("kind", ["orpo", "sft", "kto", "reward"])
def test_an_adapter_and_accumulation_take_the_steps_of_trl(tmp_path: Path, kind: str) -> None:
    params = {"nll_on_prompt": True} if kind == "orpo" else {}
    settings = {"gradient_accumulation_steps": 2, "micro_batch_size": 2}
    job = recipe(settings, {"kind": kind, **params})
    rows, head = rows_of(job), objective_of(job).head
    mine = train_ours(tmp_path / "ours", make_model(head=head), rows, job, lora(head=head))
    theirs = train_referee(tmp_path / "theirs", make_model(head=head), rows, job, lora(head=head))
    compare(mine, theirs, job)
