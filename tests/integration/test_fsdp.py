"""Two processes with FSDP2 in force on this machine's CPU (tests/fsdp_worker.py) take the steps of one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fsdp_worker import allow_fsdp_on_cpu
from processes import Run, Runner, assert_same_steps, assert_same_weights, assert_scores_alike, base_answers

from dpo_recipes.errors import Interrupted
from dpo_recipes.hardware import rule_table
from dpo_recipes.launch import torchrun

FSDP = "launch.strategy=fsdp"
LORA = "{kind: lora, r: 4}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Runner]:
    own = torchrun.request_arguments
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchrun, "request_arguments", lambda order: ["-m", "fsdp_worker", *own(order)[2:]])
        rules: dict[Any, Any] = dict(rule_table.RULES)
        allow_fsdp_on_cpu(rules)
        patch.setitem(rule_table.RULES, "strategy", rules["strategy"])  # pyright: ignore[reportArgumentType]
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)
        yield Runner(tmp_path_factory.mktemp("fsdp"), tiny_model)


def by_size(run: Run) -> list[Any]:
    """The reference of each split, the smallest split first."""
    return sorted(run.reference.values(), key=lambda logps: logps.size)


def assert_same_run(one: Run, other: Run, num_processes: int = 2) -> None:
    """Steps, weights, the reference and where it is kept, and what the base says."""
    assert other.result["model"]["processes"] == f"{num_processes} with fsdp"
    assert_same_steps(one, other)
    assert_same_weights(one, other)
    if one.result["model"]["weights_dtype"] == "float32":
        assert one.reference.keys() == other.reference.keys()
    # In 16 bits, autocast and FSDP round other values, so each has cache entries of its own.
    for logps, others in zip(by_size(one), by_size(other), strict=True):
        np.testing.assert_allclose(others, logps, rtol=1e-5)
    assert base_answers(other) == base_answers(one)
    assert other.result["positions_saved"] == pytest.approx(one.result["positions_saved"], abs=0.01)


def test_an_adapter_and_a_head_that_is_trained_whole_take_the_steps_of_one_process(run: Runner) -> None:
    """With recomputation: accelerate's own would have the adapter saved empty."""
    adapter = "{kind: lora, r: 4, modules_to_save: [lm_head]}"
    settings = ("training.gradient_checkpointing=true",)
    assert_same_run(run(1, *settings, adapter=adapter), run(2, FSDP, *settings, adapter=adapter))


@pytest.mark.slow
def test_an_adapter_is_trained_in_16_bits_as_by_one_process(run: Runner) -> None:
    """Frozen weights of 16 bits beside trained ones of 32; log-probabilities are not rounded to 16."""
    settings = ("hardware.device=cpu", "model.dtype=bfloat16", "training.gradient_checkpointing=true")
    one, other = run(1, *settings, adapter=LORA), run(2, FSDP, *settings, adapter=LORA)
    assert other.result["model"]["weights_dtype"] == "bfloat16"
    assert other.result["metrics"]["eval_logps/chosen"] % 0.125 != 0
    assert_same_run(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [(), ("training.gradient_checkpointing=true",)])
def test_full_fine_tuning_takes_the_steps_of_one_process(run: Runner, settings: tuple[str, ...]) -> None:
    assert_same_run(run(1, *settings), run(2, FSDP, *settings))


@pytest.mark.slow
def test_full_fine_tuning_in_16_bits_is_near(run: Runner) -> None:
    """FSDP computes all in 16 bits, where autocast leaves what is added up from layer to layer in 32."""
    one, other = run(1, "model.dtype=bfloat16"), run(2, FSDP, "model.dtype=bfloat16")
    assert [step["loss"] for step in other.steps] == pytest.approx([step["loss"] for step in one.steps], abs=0.02)
    assert other.result["base_metrics"]["eval_loss"] == pytest.approx(0.6931, abs=2e-3)
    assert other.result["metrics"]["eval_loss"] < 0.6


@pytest.mark.slow
def test_an_adapter_that_takes_a_part_of_the_base_is_saved_as_the_difference(run: Runner) -> None:
    adapter = "{kind: lora, r: 4, init: olora, modules_to_save: [lm_head]}"
    assert_same_run(run(1, adapter=adapter), run(2, FSDP, adapter=adapter))


@pytest.mark.slow
@pytest.mark.parametrize(("adapter", "dtype"), [("null", "float32"), (LORA, "float32"), (LORA, "bfloat16")])
def test_a_reward_model_takes_the_steps_of_one_process(run: Runner, adapter: str, dtype: str) -> None:
    """Its new head is trained and saved whole, also beside an adapter."""
    settings = ("objective={kind: reward}", "evaluation.num_samples=0", "training.gradient_checkpointing=true")
    settings = (*settings, f"model.dtype={dtype}")
    one, other = run(1, *settings, adapter=adapter), run(2, FSDP, *settings, adapter=adapter)
    assert_same_run(one, other)
    assert_scores_alike(one, other)


@pytest.mark.slow
def test_passes_may_be_filled_by_tokens(run: Runner) -> None:
    assert_same_run(run(1), run(2, FSDP, "training.max_tokens_per_pass=80"))


@pytest.mark.slow
@pytest.mark.parametrize(("adapter", "then"), [("null", 4), (LORA, 2)])
def test_a_stopped_run_goes_on_and_knows_reference_and_base(
    run: Runner, tmp_path: Path, adapter: str, then: int
) -> None:
    one = run(1, adapter=adapter)

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 3:
            os.kill(os.getpid(), signal.SIGINT)

    place = (FSDP, f"output_dir={tmp_path}")
    with pytest.raises(Interrupted):
        run(2, *place, adapter=adapter, on_event=stop, cache=tmp_path / "cache")
    events: list[dict[str, Any]] = []
    again = run(then, *place, adapter=adapter, on_event=events.append, resume=True, cache=tmp_path / "cache")
    assert 3 <= again.result["resumed_from_step"] < 10
    assert_same_run(one, again, then)
    assert not [event for event in events if event["event"] == "stage" and event["name"] == "base"]


@pytest.mark.slow
def test_the_best_checkpoint_is_the_model_that_is_kept(run: Runner) -> None:
    settings = ("checkpoints={save_steps: 2, keep_best: true}", "training.eval_steps=2")
    assert_same_run(run(1, *settings), run(2, FSDP, *settings))


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["null", LORA])
def test_tokens_that_are_added_are_trained(run: Runner, adapter: str) -> None:
    settings = ("chat_template=llama3", "model.add_special_tokens=true")
    assert_same_run(run(1, *settings, adapter=adapter), run(2, FSDP, *settings, adapter=adapter))
