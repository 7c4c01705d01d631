"""A reference that moves: as TRL's for full fine-tuning, and with an adapter, which TRL refuses."""

from __future__ import annotations

import copy
import gc
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sharing import Trained, lora, make_model, make_pairs, recipe, train_ours, train_trls
from test_prefix_sharing import assert_same_training
from transformers import TrainerCallback

from dpo_recipes.engine.live_reference import MoveReference

PAIRS = make_pairs()


def job(training: dict[str, Any] | None = None, **objective: Any) -> Any:
    settings = {"max_steps": 5, "learning_rate": 1e-2, **(training or {})}
    return recipe(settings, {"sync_ref_model": True, "ref_model_sync_steps": 2, **objective})


@pytest.mark.parametrize("alpha", [0.6, 1.0])
@pytest.mark.parametrize("objective", [{}, {"loss_type": "ipo", "ld_alpha": 0.5}], ids=str)
def test_five_steps_are_those_of_trl(tmp_path: Path, alpha: float, objective: dict[str, Any]) -> None:
    settings = job(ref_model_mixup_alpha=alpha, **objective)
    ours = train_ours(tmp_path / "ours", make_model(), PAIRS, settings, eval=PAIRS[:8])
    trls = train_trls(tmp_path / "trls", make_model(), PAIRS, settings, moving=make_model(), eval=PAIRS[:8])
    assert_same_training(ours, trls)
    theirs = dict(trls.trainer.ref_model.named_parameters())
    for name, weight in ours.trainer.live_reference.weights.items():
        torch.testing.assert_close(weight, theirs[name].detach(), rtol=1e-4, atol=5e-5)
    evaluated = ours.trainer.evaluate()
    for name, value in trls.trainer.evaluate().items():
        if name in ("eval_loss", "eval_rewards/margins", "eval_logps/chosen"):
            assert evaluated[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    frozen = train_ours(tmp_path / "frozen", make_model(), PAIRS, recipe({"max_steps": 5, "learning_rate": 1e-2}))
    assert frozen.rows[1]["loss"] == pytest.approx(ours.rows[1]["loss"], rel=1e-5) or objective
    assert frozen.rows[-1]["loss"] != pytest.approx(ours.rows[-1]["loss"], rel=1e-3)


class Record(TrainerCallback):
    """Keeps the trained weights after every step."""

    def __init__(self) -> None:
        self.weights: list[dict[str, torch.Tensor]] = []

    def keep(self, model: Any) -> None:
        trained = ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)
        self.weights.append({name: weight.detach().clone() for name, weight in trained})

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.keep(kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.keep(kwargs["model"])


def train_recorded(folder: Path, settings: Any, adapter: Any, dtype: str = "float32") -> tuple[Any, Record]:
    from datasets import Dataset
    from tiny import make_tokenizer

    from dpo_recipes.engine.context import TrainingContext
    from dpo_recipes.engine.engine_trainer import build_trainer
    from dpo_recipes.model.build import ModelBundle

    record = Record()
    bundle = ModelBundle(make_model(), make_tokenizer(), adapter, "cpu", dtype, None, None)  # type: ignore[arg-type]
    torch.manual_seed(1)
    context = TrainingContext(settings, folder, "cpu", dtype)
    trainer: Any = build_trainer(bundle, context, {"train": Dataset.from_list(PAIRS)}, [record])
    trainer.train()
    return trainer, record


@pytest.mark.parametrize("with_adapter", [True, False], ids=["lora", "full"])
def test_the_reference_is_the_mix_of_the_policies_so_far(tmp_path: Path, with_adapter: bool) -> None:
    trainer, record = train_recorded(tmp_path, job(ref_model_mixup_alpha=0.3), lora() if with_adapter else None)
    start, _, second, _, fourth, fifth = record.weights
    assert trainer.live_reference.weights.keys() == start.keys()
    for name, weight in trainer.live_reference.weights.items():
        after_two = 0.7 * start[name] + 0.3 * second[name]
        torch.testing.assert_close(weight, 0.7 * after_two + 0.3 * fourth[name], rtol=1e-5, atol=1e-7)
    # A model with the reference's weights in it gives the reference's log-probabilities, and the policy others.
    batch = trainer.data_collator([trainer.train_dataset[place] for place in range(6)])
    reference = torch.cat(trainer.compute_ref_log_probs(trainer.live_reference, batch))
    other = copy.deepcopy(trainer.model)
    other.load_state_dict({**other.state_dict(), **trainer.live_reference.weights})
    torch.testing.assert_close(reference, torch.cat(trainer.compute_ref_log_probs(other, batch)), rtol=1e-5, atol=1e-5)
    policy = torch.cat(trainer.compute_ref_log_probs(trainer.model, batch))
    assert (reference - policy).abs().max() > 0.1
    for name, weight in trainer.model.named_parameters():
        assert not weight.requires_grad or torch.equal(weight.detach(), fifth[name])


@pytest.mark.parametrize("with_adapter", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_reference_that_always_follows_leaves_no_margin(tmp_path: Path, with_adapter: bool, dtype: str) -> None:
    """Each step then starts with the policy as its reference: a loss of log 2, also with weights cast by autocast."""
    adapter = lora() if with_adapter else None
    always = job(ref_model_mixup_alpha=1.0, ref_model_sync_steps=1)
    trained = train_ours(tmp_path, make_model(), PAIRS, always, adapter, dtype)
    assert [row["loss"] for row in trained.rows] == pytest.approx([math.log(2)] * 5, abs=1e-4)
    assert (trained.weights - trained.start).norm() > 1e-3
    later = train_ours(tmp_path, make_model(), PAIRS, job(ref_model_sync_steps=4), adapter, dtype)
    assert abs(later.rows[3]["loss"] - math.log(2)) > 1e-3


@pytest.mark.parametrize(("every", "is_noted"), [(4, False), (5, True), (512, True)])
def test_a_reference_that_never_moves_is_reported(every: int, is_noted: bool) -> None:
    notes: list[str] = []
    callback = MoveReference(None, 0.6, every, notes.append)  # type: ignore[arg-type]
    callback.on_train_begin(None, SimpleNamespace(max_steps=5), None)  # type: ignore[arg-type]
    assert [note.split(":")[0] for note in notes] == ["the reference never moves"] * is_noted


def test_the_reference_has_no_dropout_and_leaves_training_mode(tmp_path: Path) -> None:
    adapter = lora()
    adapter.lora_dropout = 0.5
    trainer = train_ours(tmp_path, make_model(), PAIRS, job(), adapter).trainer
    trainer.model.train()
    batch = trainer.data_collator([trainer.train_dataset[place] for place in range(4)])
    state = torch.get_rng_state()
    first, second = (torch.cat(trainer.compute_ref_log_probs(trainer.live_reference, batch)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(state, torch.get_rng_state())
    assert any(module.training and isinstance(module, torch.nn.Dropout) for module in trainer.model.modules())


@pytest.mark.parametrize(
    "division",
    [
        {"micro_batch_size": 2, "gradient_accumulation_steps": 2},
        {"max_tokens_per_pass": 120, "micro_batch_size": 2, "gradient_accumulation_steps": 2},
        {"prefix_sharing": "off"},
        {"gradient_checkpointing": True},
    ],
    ids=str,
)
def test_no_division_changes_the_steps(tmp_path: Path, division: dict[str, Any]) -> None:
    whole = train_ours(tmp_path / "whole", make_model(), PAIRS, job(), lora())
    other = train_ours(tmp_path / "other", make_model(), PAIRS, job(division), lora())
    assert_same_losses(whole, other)


def assert_same_losses(one: Trained, other: Trained) -> None:
    for name in ("loss", "grad_norm", "rewards/margins"):
        expected, found = ([row[name] for row in each.rows] for each in (one, other))
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-4), name


def test_weights_of_pairs_work_with_it(tmp_path: Path) -> None:
    weighted = [{**pair, "weight": 0.5} for pair in PAIRS]
    half = train_ours(tmp_path / "half", make_model(), weighted, job({"max_grad_norm": 1e9}), lora())
    assert half.rows[0]["loss"] == pytest.approx(math.log(2) / 2, rel=1e-4)


def test_a_plan_has_the_copy_and_the_work_of_the_reference(tmp_path: Path) -> None:
    from test_fit import llama, make_recipe

    from dpo_recipes.fit.planner.plan import Planner
    from dpo_recipes.fit.planner.sharding import Sharding
    from dpo_recipes.fit.planner.target import Target
    from dpo_recipes.fit.planner.workload import assume_workload
    from dpo_recipes.hardware.profiles import PROFILES

    location = llama(tmp_path, num_hidden_layers=4)
    device = PROFILES["h100-80gb"]
    for has_adapter in (True, False):
        plain = make_recipe(lora=has_adapter)
        moving = plain.model_copy(update={"objective": plain.objective.model_copy(update={"sync_ref_model": True})})
        plans = []
        for each in (plain, moving):
            target = Target(device, device.usable_bytes, False)
            planner = Planner(each, location, target, assume_workload(each), Sharding(), trust_remote_code=False)
            plans.append(planner.plan(each, with_changes=False))
        frozen, live = plans
        copied = live.weights.trainable_bytes
        assert "reference" not in frozen.memory.highest.parts
        assert live.memory.highest.parts["reference"] == copied
        assert live.memory.peak_bytes == frozen.memory.peak_bytes + copied
        assert live.disk["checkpoint"] == (frozen.disk["checkpoint"] or 0) + copied
        assert 1.15 < live.duration.step_s / frozen.duration.step_s < 1.45
        assert {phase.name for phase in live.memory.phases} >= {"evaluation", "training"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("has_adapter", "checkpointing"), [(True, False), (True, True), (False, False), (False, True)])
def test_its_pass_raises_no_peak(tmp_path: Path, has_adapter: bool, checkpointing: bool) -> None:
    """The prediction has nothing for the reference beside its weights, because its pass ends before the policy's."""
    from datasets import Dataset
    from test_fit import SIZES, make_recipe, measured_peak

    plain = make_recipe(lora=has_adapter, micro_batch_size=3, gradient_checkpointing=checkpointing)
    moving = plain.model_copy(update={"objective": plain.objective.model_copy(update={"sync_ref_model": True})})
    pairs = Dataset.from_list(make_pairs(3, prompts=(40,), answers=(30,), same_starts=(0,)))
    peaks = []
    for each in (plain, moving):
        gc.collect()  # what is freed during a measurement lowers its result
        peaks.append(measured_peak(make_model(**SIZES["llama"]), each, pairs, tmp_path))
    frozen, live = peaks
    assert live == pytest.approx(frozen, rel=0.01)
