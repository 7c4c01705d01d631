"""Real runs of several processes on this machine's CPU, started as `dpo-recipe run --num-processes` starts them.

A run of one process and a run of two must take the same steps: losses, gradients and metrics are compared step by step,
also where an epoch does not divide into steps, micro-batches or processes.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import recipe_text, write_pairs

from dpo_recipes.engine.checkpoints.folder import newest_first
from dpo_recipes.errors import DpoRecipeError, Interrupted
from dpo_recipes.launch.choose import LaunchFlags
from dpo_recipes.workflow import run_recipe

STEPS = ("loss", "grad_norm", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected", "num_tokens")
# Not `logits/*`, `entropy` and `mean_token_accuracy`: TRL takes these over all tokens of a pass, and processes that
# compute together make one pass of what is several for one.
# 17 pairs to train on and 6 held out, in micro-batches of 2, 2 to a step: the last step has a single pair, so that one
# of two processes has none; and 3 held-out micro-batches are no even number.
SETTINGS = ("training.max_steps=null", "training.num_epochs=2", "training.learning_rate=1e-3")


@dataclass
class Run:
    """A finished run and the cache it used."""

    result: dict[str, Any]
    cache: Path

    @property
    def path(self) -> Path:
        return Path(self.result["model_dir"]).parent

    def read(self, name: str) -> Any:
        return json.loads((self.path / name).read_text())

    @property
    def steps(self) -> list[dict[str, float]]:
        rows = [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]
        return [row for row in rows if "loss" in row]

    @property
    def reference(self) -> dict[str, np.ndarray]:
        return {path.parent.name: np.load(path) for path in (self.cache / "reference").glob("*/logps.npy")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Callable[..., Run]:
    folder = tmp_path_factory.mktemp("processes")
    data = write_pairs(folder / "pairs.jsonl", 23)

    def start(
        num_processes: int,
        *overrides: str,
        adapter: str = "null",
        listen: Callable[[Any], None] | None = None,
        resume: bool = False,
    ) -> Run:
        recipe = folder / "recipe.yaml"
        recipe.write_text(recipe_text(tiny_model, data, adapter=adapter), encoding="utf-8")
        cache = Path(folder / f"cache-{time.monotonic_ns()}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DPO_RECIPE_CACHE", str(cache))
            patch.setenv("OMP_NUM_THREADS", "1")
            patch.setenv("DS_ACCELERATOR", "cpu")
            settings = [*SETTINGS, f"output_dir={folder / 'runs'}", *overrides]
            flags = LaunchFlags(num_processes=num_processes)
            return Run(run_recipe(recipe, settings, listen or (lambda event: None), flags=flags, resume=resume), cache)

    return start


@pytest.fixture(scope="module")
def alone(run: Callable[..., Run]) -> Run:
    return run(1)


@pytest.fixture(scope="module")
def both(run: Callable[..., Run]) -> Run:
    return run(2)


def assert_same_steps(one: Run, other: Run, tolerance: float = 1e-5) -> None:
    assert len(one.steps) == len(other.steps) == 10
    for mine, theirs in zip(one.steps, other.steps, strict=True):
        for name in STEPS:
            assert mine[name] == pytest.approx(theirs[name], rel=tolerance, abs=1e-6), (name, mine["step"])
    for name, value in one.result["metrics"].items():
        assert other.result["metrics"][name] == pytest.approx(value, rel=tolerance, abs=1e-5), name


def test_two_processes_take_the_steps_of_one(alone: Run, both: Run) -> None:
    assert_same_steps(alone, both)
    base = alone.result["base_metrics"]
    for name in base.keys() - {"train_loss"}:
        assert both.result["base_metrics"][name] == pytest.approx(base[name], rel=1e-5), name


def test_two_processes_share_passes_that_are_filled_by_tokens(run: Callable[..., Run], alone: Run) -> None:
    other = run(2, "training.max_tokens_per_pass=80")
    assert_same_steps(alone, other)
    assert other.read("launch.json")["max_tokens"] == 80
    assert other.result["pairs_per_second"] > 0


def test_accumulation_makes_up_for_the_second_process_and_it_is_said(both: Run) -> None:
    plan = both.read("launch.json")
    assert {name: plan[name] for name in ("num_processes", "micro_batch_size", "gradient_accumulation_steps")} == {
        "num_processes": 2,
        "micro_batch_size": 2,
        "gradient_accumulation_steps": 1,
    }
    assert plan["strategy"] == "ddp"
    assert plan["reason"].startswith("the whole job fits each device")
    assert both.read("plan.json")["pairs_per_step"] == 4
    assert "torch.distributed.run" in both.read("plan.json")["command"]
    assert "gradient_accumulation_steps: 2" in (both.path / "resolved.yaml").read_text()  # the recipe as it was meant


def test_prefixes_are_shared_in_every_process_and_counted_over_all(alone: Run, both: Run) -> None:
    assert both.result["positions_saved"] == pytest.approx(alone.result["positions_saved"], abs=0.01)
    assert both.result["positions_saved"] > 0.3
    assert both.result["model"]["processes"] == "2 with ddp"
    peaks = both.result["processes"]["peak_memory_bytes"]
    assert len(peaks) == 2
    assert both.result["peak_memory_bytes"] == max(peaks)


def test_each_process_leaves_its_name_and_only_the_first_writes_results(both: Run) -> None:
    records = [json.loads((both.path / "ranks" / rank / "process.json").read_text()) for rank in ("0", "1")]
    assert [record["rank"] for record in records] == [0, 1]
    assert len({record["pid"] for record in records}) == 2
    assert (both.path / "ranks" / "1" / "run.log").exists()
    second = [json.loads(line) for line in (both.path / "ranks" / "1" / "events.jsonl").read_text().splitlines()]
    assert {event["event"] for event in second} >= {"stage", "step"}
    steps = [event["step"] for event in _events(both) if event["event"] == "step"]
    assert steps == list(range(1, 11))


def _events(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.path / "events.jsonl").read_text().splitlines()]


def test_the_reference_is_the_same_entry_of_the_cache_with_any_number_of_processes(alone: Run, both: Run) -> None:
    assert alone.reference.keys() == both.reference.keys()
    assert len(alone.reference) == 2
    for key, logps in alone.reference.items():
        np.testing.assert_allclose(both.reference[key], logps, rtol=1e-6)


@pytest.mark.slow
def test_a_strategy_that_cannot_be_in_force_ends_the_run_with_the_reason(run: Callable[..., Run]) -> None:
    with pytest.raises(DpoRecipeError) as caught:
        run(2, "hardware.device=auto", "launch.strategy=fsdp")
    finding = caught.value.findings[0]
    assert finding.code == "T621"
    assert "FSDP" in (finding.why or "")


@pytest.mark.slow  # a minute: DeepSpeed compiles its exchange over shared memory
@pytest.mark.parametrize("adapter", ["null", "{kind: lora, r: 4}"])
@pytest.mark.parametrize("strategy", ["deepspeed-zero1", "deepspeed-zero2", "deepspeed-zero3"])
def test_deepspeed_takes_the_same_steps(run: Callable[..., Run], alone: Run, strategy: str, adapter: str) -> None:
    pytest.importorskip("deepspeed")
    one = alone if adapter == "null" else run(1, adapter=adapter)
    other = run(2, f"launch.strategy={strategy}", adapter=adapter)
    assert_same_steps(one, other)
    assert other.read("launch/deepspeed.json")["zero_optimization"]["stage"] == int(strategy[-1])
    assert other.result["model"]["processes"] == f"2 with {strategy}"
    assert other.reference.keys() == one.reference.keys()
    assert_same_weights(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["deepspeed-zero2", "deepspeed-zero3"])
def test_deepspeed_takes_passes_that_are_filled_by_tokens(run: Callable[..., Run], alone: Run, strategy: str) -> None:
    pytest.importorskip("deepspeed")
    assert_same_steps(alone, run(2, f"launch.strategy={strategy}", "training.max_tokens_per_pass=80"))


@pytest.mark.slow
def test_deepspeed_offloads_the_optimizer_without_a_compiler(run: Callable[..., Run], alone: Run) -> None:
    pytest.importorskip("deepspeed")
    assert_same_steps(alone, run(2, "launch.strategy=deepspeed-zero2", "launch.offload=optimizer"))


def test_the_saved_model_is_the_same(alone: Run, both: Run) -> None:
    assert_same_weights(alone, both)


def assert_same_weights(one: Run, other: Run) -> None:
    from safetensors.numpy import load_file

    (mine,), (theirs,) = ([*Path(run.result["model_dir"]).glob("*.safetensors")] for run in (one, other))
    ours, others = load_file(mine), load_file(theirs)
    assert ours.keys() == others.keys()
    for name, weight in ours.items():
        np.testing.assert_allclose(others[name], weight, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("then", [1, 2])
def test_a_run_of_two_that_is_stopped_goes_on_with_as_many_or_fewer_to_the_bit(
    run: Callable[..., Run], both: Run, tmp_path: Path, then: int
) -> None:
    seen: dict[str, Any] = {}

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "run":
            seen["dir"] = Path(event["dir"])
        if event["event"] == "step" and event["step"] >= 3 and "pid" not in seen:
            seen["pid"] = json.loads((seen["dir"] / "ranks" / "1" / "process.json").read_text())["pid"]
            os.kill(seen["pid"], signal.SIGINT)

    with pytest.raises(Interrupted):
        run(2, f"output_dir={tmp_path}", listen=stop)
    again = run(then, f"output_dir={tmp_path}", resume=True)
    assert 3 <= again.result["resumed_from_step"] < 10
    assert_same_steps(both, again)
    assert_same_weights(both, again)


@pytest.mark.slow
def test_one_process_that_is_asked_to_stop_stops_all_after_the_same_step(run: Callable[..., Run]) -> None:
    seen: dict[str, Any] = {}

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "run":
            seen["dir"] = Path(event["dir"])
        if event["event"] == "step" and "pid" not in seen:
            seen["pid"] = json.loads((seen["dir"] / "ranks" / "1" / "process.json").read_text())["pid"]
            os.kill(seen["pid"], signal.SIGINT)

    with pytest.raises(Interrupted):
        run(2, "training.num_epochs=400", "training.prefix_sharing=off", listen=listen)
    last = [
        [json.loads(line)["step"] for line in path.read_text().splitlines() if '"step"' in line and '"total"' in line][
            -1
        ]
        for path in (seen["dir"] / "events.jsonl", seen["dir"] / "ranks" / "1" / "events.jsonl")
    ]
    assert last[0] == last[1]
    assert list((seen["dir"] / "checkpoints").glob(f"checkpoint-*{last[0]}"))


def test_processes_agree_which_checkpoint_is_the_best(run: Callable[..., Run], tmp_path: Path) -> None:
    """Held-out pairs with their answers exchanged: the more is learned, the worse the held-out loss."""
    held_out = tmp_path / "held_out.jsonl"
    worse = [{"prompt": f"{n}?", "chosen": f"Many things could be said about {n}.", "rejected": "1."} for n in range(6)]
    held_out.write_text("".join(json.dumps(pair) + "\n" for pair in worse))
    settings = [f"data.eval.sources=[{{path: {held_out}}}]", "data.eval.fraction=null", f"output_dir={tmp_path}"]
    keep = "checkpoints={save_steps: 1, save_total_limit: 1, keep_best: true}"
    both = run(2, keep, "training.eval_steps=1", *settings)
    rows = [json.loads(line) for line in (both.path / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["eval_loss"] for row in rows if "eval_loss" in row and row["step"]}
    best, last = min(losses, key=lambda step: losses[step]), both.result["steps"]
    assert best != last
    assert {path.name for path in newest_first(both.path / "checkpoints")} == {
        f"checkpoint-{best}",
        f"checkpoint-{last}",
    }
    saved = (both.path / "model" / "model.safetensors").read_bytes()
    assert saved == (both.path / "checkpoints" / f"checkpoint-{best}" / "model.safetensors").read_bytes()
