"""Real runs of several processes on this machine's CPU, started as `dpo-recipe run --num-processes` starts them.

A run of one process and a run of two must take the same steps: losses, gradients and metrics are compared step by step,
also where an epoch does not divide into steps, micro-batches or processes.
"""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import Run, Runner, assert_same_steps, assert_same_weights, assert_scores_alike, base_answers
from tiny import write_pairs

from dpo_recipes.engine.checkpoints.folder import newest_first
from dpo_recipes.errors import DpoRecipeError, Interrupted, RecipeError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Runner:
    return Runner(tmp_path_factory.mktemp("processes"), tiny_model)


@pytest.fixture(scope="module")
def alone(run: Runner) -> Run:
    return run(1)


@pytest.fixture(scope="module")
def both(run: Runner) -> Run:
    return run(2)


def test_two_processes_take_the_steps_of_one(alone: Run, both: Run) -> None:
    assert_same_steps(alone, both)
    base = alone.result["base_metrics"]
    for name in base.keys() - {"train_loss"}:
        assert both.result["base_metrics"][name] == pytest.approx(base[name], rel=1e-5), name


def test_metrics_of_the_last_steps_of_epochs_leave_no_process_out(run: Runner) -> None:
    # 12 pairs a step: of 17, the second has two rounds, fetched at once, the first of which all processes take part in.
    larger = "training.gradient_accumulation_steps=6"
    alone, both = (run(count, larger, "training.num_epochs=1") for count in (1, 2))
    assert_same_steps(alone, both, num_steps=2)


@pytest.mark.parametrize(
    "kind", [*(pytest.param(kind, marks=pytest.mark.slow) for kind in ("orpo", "sft")), "simpo", "kto", "reward"]
)
def test_two_processes_take_the_steps_of_one_with_any_objective(run: Runner, kind: str) -> None:
    """Also in steps that are not full, where a process has fewer rows than another, or none."""
    settings = (f"objective={{kind: {kind}}}", "training.gradient_accumulation_steps=6", "training.num_epochs=1")
    if kind == "reward":
        settings = (*settings, "evaluation.num_samples=0")
    alone, both = (run(count, *settings) for count in (1, 2))
    assert_same_steps(alone, both, num_steps=3 if kind == "kto" else 2)  # each pair becomes two rows
    assert_same_weights(alone, both)


def test_two_processes_take_the_steps_of_one_with_weights_of_pairs(run: Runner, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in write_pairs(tmp_path / "pairs.jsonl", 23).read_text().splitlines()]
    weighted = [json.dumps({**row, "votes": place % 4 / 2}) for place, row in enumerate(rows)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(weighted) + "\n")
    source = f"data.train=[{{path: '{tmp_path / 'pairs.jsonl'}', columns: {{weight: votes}}}}]"
    settings = (source, "training.num_epochs=1")
    alone, both, by_tokens = run(1, *settings), run(2, *settings), run(2, *settings, "training.max_tokens_per_pass=80")
    assert alone.steps[0]["loss"] != pytest.approx(math.log(2), rel=1e-2)
    assert_same_steps(alone, both, num_steps=5)
    assert_same_weights(alone, both)
    assert_same_steps(alone, by_tokens, num_steps=5)


@pytest.mark.parametrize("kind", ["dpo", pytest.param("reward", marks=pytest.mark.slow)])
def test_two_processes_count_subsets_as_one_does(run: Runner, tmp_path: Path, kind: str) -> None:
    """There are 5 held-out pairs in micro-batches of 2: with two processes, one computes a pair that does not count."""
    held_out = tmp_path / "held_out.jsonl"
    rows = [{"prompt": f"{n}?", "chosen": f"Many things could be said about {n}.", "rejected": "1."} for n in range(5)]
    named = [{**row, "kind": kind} for row, kind in zip(rows, ("a", "b", "b", None, "a"), strict=True)]
    held_out.write_text("".join(json.dumps(row) + "\n" for row in named), encoding="utf-8")
    settings = (
        f"objective={{kind: {kind}}}",
        f"data.eval={{sources: [{{path: '{held_out}', columns: {{subset: kind}}}}]}}",
        "evaluation.num_samples=0",
        "training.num_epochs=1",
        "training.learning_rate=1e-4",
    )
    alone, both = (run(count, *settings) for count in (1, 2))
    metric = "accuracy" if kind == "reward" else "rewards/accuracies"
    for part in ("metrics", "base_metrics"):
        of_one, of_both = alone.result[part], both.result[part]
        assert {name for name in of_one if f"{metric}/" in name} == {f"eval_{metric}/a", f"eval_{metric}/b"}
        assert all(of_both[name] == value for name, value in of_one.items() if f"{metric}/" in name)
    assert both.result["subsets"] == {"eval": {"a": 2, "b": 2}}


@pytest.mark.parametrize("adapter", ["null", pytest.param("{kind: lora, r: 4}", marks=pytest.mark.slow)])
def test_two_processes_move_their_reference_alike(run: Runner, adapter: str) -> None:
    moving = "objective={kind: dpo, sync_ref_model: true, ref_model_sync_steps: 2}"
    alone, both = (run(count, moving, "training.num_epochs=1", adapter=adapter) for count in (1, 2))
    assert_same_steps(alone, both, num_steps=5)
    assert_same_weights(alone, both)


def test_simpo_takes_the_same_steps_in_passes_that_are_filled_by_tokens(run: Runner) -> None:
    settings = ("objective={kind: simpo}", "training.num_epochs=1")
    alone, by_tokens = run(1, *settings), run(2, *settings, "training.max_tokens_per_pass=80")
    assert by_tokens.read("launch.json")["max_tokens"] == 80
    assert_same_steps(alone, by_tokens, num_steps=5)


def test_two_processes_share_passes_that_are_filled_by_tokens(run: Runner, alone: Run) -> None:
    other = run(2, "training.max_tokens_per_pass=80")
    assert_same_steps(alone, other)
    assert other.read("launch.json")["max_tokens"] == 80
    assert other.result["pairs_per_second"] > 0


def test_two_processes_compare_the_rows_of_the_same_micro_batches(run: Runner) -> None:
    loss = "objective={kind: dpo, loss_type: aot}"
    alone, both = (run(count, loss) for count in (1, 2))
    assert_same_steps(alone, both)
    with pytest.raises(RecipeError, match="do not divide the only micro-batch") as caught:
        run(2, loss, "training.micro_batch_size=4", "training.gradient_accumulation_steps=1")
    assert caught.value.findings[0].code == "R340"


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
def test_a_strategy_that_cannot_be_in_force_ends_the_run_with_the_reason(run: Runner) -> None:
    with pytest.raises(DpoRecipeError) as caught:
        run(2, "hardware.device=auto", "launch.strategy=fsdp")
    finding = caught.value.findings[0]
    assert finding.code == "T621"
    assert "FSDP" in (finding.why or "")


@pytest.mark.slow  # a minute: DeepSpeed compiles its exchange over shared memory
@pytest.mark.parametrize("adapter", ["null", "{kind: lora, r: 4}"])
@pytest.mark.parametrize("strategy", ["deepspeed-zero1", "deepspeed-zero2", "deepspeed-zero3"])
def test_deepspeed_takes_the_same_steps(run: Runner, alone: Run, strategy: str, adapter: str) -> None:
    pytest.importorskip("deepspeed")
    one = alone if adapter == "null" else run(1, adapter=adapter)
    settings = ["training.gradient_checkpointing=true"] * (adapter != "null")
    other = run(2, f"launch.strategy={strategy}", *settings, adapter=adapter)
    assert_same_steps(one, other)
    assert other.read("launch/deepspeed.json")["zero_optimization"]["stage"] == int(strategy[-1])
    assert other.result["model"]["processes"] == f"2 with {strategy}"
    assert other.reference.keys() == one.reference.keys()
    assert base_answers(other) == base_answers(one)
    assert_same_weights(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["null", "{kind: lora, r: 4}"])
@pytest.mark.parametrize("strategy", ["deepspeed-zero2", "deepspeed-zero3"])
def test_deepspeed_trains_the_same_reward_model(run: Runner, strategy: str, adapter: str) -> None:
    """Its new head is trained and saved whole, also beside an adapter."""
    pytest.importorskip("deepspeed")
    settings = ("objective={kind: reward}", "evaluation.num_samples=0", "training.gradient_checkpointing=true")
    one, other = run(1, *settings, adapter=adapter), run(2, f"launch.strategy={strategy}", *settings, adapter=adapter)
    assert other.result["model"]["processes"] == f"2 with {strategy}"
    assert_same_steps(one, other)
    assert_same_weights(one, other)
    assert_scores_alike(one, other)
    assert other.result["model"]["trainable_parameters"] == one.result["model"]["trainable_parameters"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["deepspeed-zero1", "deepspeed-zero3"])
def test_deepspeed_computes_the_reference_as_it_computes_the_policy(run: Runner, strategy: str) -> None:
    pytest.importorskip("deepspeed")
    plain = run(2, "model.dtype=bfloat16", "training.num_epochs=1")
    other = run(2, "model.dtype=bfloat16", "training.num_epochs=1", f"launch.strategy={strategy}")
    for outcome in (plain, other):
        base = outcome.result["base_metrics"]
        assert base["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)
        assert base["eval_rewards/margins"] == pytest.approx(0.0, abs=1e-6)
    assert not other.reference.keys() & plain.reference.keys()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["deepspeed-zero2", "deepspeed-zero3"])
def test_deepspeed_takes_passes_that_are_filled_by_tokens(run: Runner, alone: Run, strategy: str) -> None:
    pytest.importorskip("deepspeed")
    assert_same_steps(alone, run(2, f"launch.strategy={strategy}", "training.max_tokens_per_pass=80"))


@pytest.mark.slow
def test_deepspeed_offloads_the_optimizer_without_a_compiler(run: Runner, alone: Run) -> None:
    pytest.importorskip("deepspeed")
    assert_same_steps(alone, run(2, "launch.strategy=deepspeed-zero2", "launch.offload=optimizer"))


def test_the_saved_model_is_the_same(alone: Run, both: Run) -> None:
    assert_same_weights(alone, both)
    assert alone.result["saved_model"]["equal"]
    assert both.result["saved_model"]["equal"]


@pytest.mark.slow
@pytest.mark.parametrize("then", [1, 2])
def test_a_run_of_two_that_is_stopped_goes_on_with_as_many_or_fewer_to_the_bit(
    run: Runner, both: Run, tmp_path: Path, then: int
) -> None:
    seen: dict[str, Any] = {}

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "run":
            seen["dir"] = Path(event["dir"])
        if event["event"] == "step" and event["step"] >= 3 and "pid" not in seen:
            seen["pid"] = json.loads((seen["dir"] / "ranks" / "1" / "process.json").read_text())["pid"]
            os.kill(seen["pid"], signal.SIGINT)

    with pytest.raises(Interrupted):
        run(2, f"output_dir={tmp_path}", on_event=stop)
    again = run(then, f"output_dir={tmp_path}", resume=True)
    assert 3 <= again.result["resumed_from_step"] < 10
    assert_same_steps(both, again)
    assert_same_weights(both, again)


def last_steps(folder: Path) -> list[int]:
    """The last step that each of two processes has reported."""
    return [
        [json.loads(line)["step"] for line in path.read_text().splitlines() if '"step"' in line and '"total"' in line][
            -1
        ]
        for path in (folder / "events.jsonl", folder / "ranks" / "1" / "events.jsonl")
    ]


@pytest.mark.slow
def test_one_process_that_is_asked_to_stop_stops_all_after_the_same_step(run: Runner) -> None:
    seen: dict[str, Any] = {}

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "run":
            seen["dir"] = Path(event["dir"])
        if event["event"] == "step" and "pid" not in seen:
            seen["pid"] = json.loads((seen["dir"] / "ranks" / "1" / "process.json").read_text())["pid"]
            os.kill(seen["pid"], signal.SIGINT)

    with pytest.raises(Interrupted):
        run(2, "training.num_epochs=400", "training.prefix_sharing=off", on_event=on_event)
    last = last_steps(seen["dir"])
    assert last[0] == last[1]
    assert list((seen["dir"] / "checkpoints").glob(f"checkpoint-*{last[0]}"))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (
            ("guards.chance={action: stop, after_rows: 16}", "training.learning_rate=1e-30"),
            "the guard `chance` ended it at step 4: ",
        ),
        (
            ("training.early_stopping={patience: 1, min_delta: 9.0}",),
            "the held-out loss has not improved in the last evaluation",
        ),
        (
            ("objective={kind: dpo, beta: 1e+30}", "guards.non_finite={action: stop}"),
            "the guard `non_finite` ended it at step 1: the gradient norm is not a finite number",
        ),
    ],
)
def test_what_one_process_sees_ends_training_in_both_after_the_same_step(
    run: Runner, settings: tuple[str, ...], reason: str
) -> None:
    """Only the first process looks at the rows of metrics."""
    both = run(2, "training.eval_steps=2", *settings)
    assert both.result["ended_early"].startswith(reason)
    assert both.result["steps"] == (1 if "step 1:" in reason else 4)
    assert last_steps(both.path) == [both.result["steps"]] * 2
    assert both.result["saved"] == "full"


def test_processes_agree_which_checkpoint_is_the_best(run: Runner, tmp_path: Path) -> None:
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
