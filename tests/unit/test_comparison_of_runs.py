"""What `reproduce` says about two runs: equal, close or different, where they part first, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dpo_recipes.run_dir import RunDirectory
from dpo_recipes.run_inputs import Computation, ReferenceLogps, RunInputs, SplitRows
from dpo_recipes.run_result import RunResult
from dpo_recipes.share.causes import likely_cause
from dpo_recipes.share.comparison import (
    Comparison,
    allowed_difference,
    compare_inputs,
    compare_losses,
    compare_numbers,
    compare_reference,
    compare_results,
    compare_weights,
    machine_changes,
)

HERE = Computation(
    device="cpu", device_name="cpu", dtype="float32", threads=2, processes=1, micro_batch_size=2, strategy="ddp"
)
LOGPS = ReferenceLogps(rows=2, sha256="a", first=[[-10.0, -20.0], [-30.0, -40.0]])
INPUTS = RunInputs(
    recipe="r", rows={"train": SplitRows(rows=2, sha256="x")}, tokenizer="t", chat_template="c", base_weights="w",
    reference={"train": LOGPS}, computation=HERE,
)  # fmt: skip


def _run(path: Path, losses: list[float], inputs: RunInputs = INPUTS, **environment: Any) -> RunDirectory:
    path.mkdir()
    run = RunDirectory(path)
    rows = [{"step": 0, "eval_loss": 1.0}]
    rows += [{"step": step, "loss": loss, "epoch": step / 2} for step, loss in enumerate(losses, 1)]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    inputs.write(run.inputs)
    run.environment.write_text(json.dumps({"packages": {"torch": "2.13.0"}, "machine": "AMD", **environment}))
    return run


def _changed(**changes: Any) -> RunInputs:
    return INPUTS.model_copy(update=changes)


def _compare(tmp_path: Path, losses: list[float], inputs: RunInputs = INPUTS, **environment: Any) -> Comparison:
    before = _run(tmp_path / "before", [0.7, 0.6, 0.5])
    now = _run(tmp_path / "now", losses, inputs, **environment)
    same = inputs.computation.device == "cpu"
    parts = [
        *compare_inputs(INPUTS, inputs),
        *compare_reference(INPUTS, inputs, "float32", same_device=same),
        *compare_losses(before, now, "float32", same_device=same, last_step=None),
    ]
    changes = tuple(machine_changes(before, now))
    cause = likely_cause(parts, changes, inputs.computation.device)
    return Comparison(before.path, now.path, tuple(parts), changes, cause)


def test_equal_runs(tmp_path: Path) -> None:
    found = _compare(tmp_path, [0.7, 0.6, 0.5])
    assert found.verdict == "equal"
    assert found.first_difference is None
    assert found.cause is None
    assert {part.state for part in found.parts} == {"equal"}


def test_the_last_bits_may_differ(tmp_path: Path) -> None:
    found = _compare(tmp_path, [0.7, 0.6 + 5e-7, 0.5])
    assert found.verdict == "close"
    assert found.first_difference is not None
    assert found.first_difference.first == f"step 2: 0.6 before, {0.6 + 5e-7} now"
    assert "nothing that a run records differs" in (found.cause or "")


def test_a_loss_that_differs_by_more_names_its_step(tmp_path: Path) -> None:
    """0.6 and 0.600002 differ by 2e-6, more than 1e-6; step 1 differs too, but by less."""
    found = _compare(tmp_path, [0.7 + 1e-7, 0.600002, 0.5])
    assert found.verdict == "different"
    assert found.first_difference is not None
    assert found.first_difference.name == "losses of the first epoch"
    assert found.first_difference.first == "step 2: 0.6 before, 0.600002 now"


def test_later_epochs_may_differ_by_more(tmp_path: Path) -> None:
    found = _compare(tmp_path, [0.7, 0.6, 0.5005])
    assert found.verdict == "close"
    assert _compare_again(tmp_path, [0.7, 0.6, 0.502]).verdict == "different"


def _compare_again(tmp_path: Path, losses: list[float]) -> Comparison:
    folder = tmp_path / "again"
    folder.mkdir()
    return _compare(folder, losses)


@pytest.mark.parametrize(
    ("changes", "part", "cause"),
    [
        ({"recipe": "other"}, "settings", "resolved.yaml was changed after the run: settings or a seed"),
        ({"rows": {"train": SplitRows(rows=3, sha256="y")}}, "rows of train", "the data have changed"),
        ({"rows": {}}, "rows of train", "the data have changed"),
        ({"tokenizer": "other"}, "tokenizer", "the tokenizer's files have changed"),
        ({"chat_template": "other"}, "chat template", "the chat template has changed"),
        ({"base_weights": "other"}, "base", "the weights of the base have changed"),
    ],
)
def test_the_first_input_that_differs_is_the_cause(
    tmp_path: Path, changes: dict[str, Any], part: str, cause: str
) -> None:
    found = _compare(tmp_path, [0.9, 0.6, 0.5], _changed(**changes))
    assert found.verdict == "different"
    assert found.first_difference is not None
    assert found.first_difference.name == part
    assert (found.cause or "").startswith(cause)


def test_other_packages_are_the_cause_of_other_losses(tmp_path: Path) -> None:
    found = _compare(tmp_path, [0.9, 0.6, 0.5], packages={"torch": "2.14.0", "orjson": "3"})
    assert found.cause == "torch: 2.13.0 before, 2.14.0 now"
    assert [change.name for change in found.changes] == ["orjson", "torch"]


def test_another_number_of_threads_is_a_cause(tmp_path: Path) -> None:
    found = _compare(tmp_path, [0.7, 0.6 + 1e-8, 0.5], _changed(computation=HERE.model_copy(update={"threads": 8})))
    assert (found.verdict, found.cause) == ("close", "threads: 2 before, 8 now")


def test_another_device_may_round_otherwise(tmp_path: Path) -> None:
    other = HERE.model_copy(update={"device": "cuda", "device_name": "H100"})
    found = _compare(tmp_path, [0.7, 0.60005, 0.5], _changed(computation=other, base_weights="v"), machine="Intel")
    assert found.verdict == "close"
    assert found.cause == "device: cpu before, cuda now; device name: cpu before, H100 now"
    assert next(part for part in found.parts if part.name == "base").state == "unknown"


def test_a_gpu_adds_in_an_order_that_varies(tmp_path: Path) -> None:
    parts = compare_numbers("losses", "", [("step 1", 1.0, 1.1)], 1e-6)
    assert "flash attention" in (likely_cause([parts], [], "cuda") or "")


def test_the_reference_is_compared_value_by_value() -> None:
    other = LOGPS.model_copy(update={"sha256": "b", "first": [[-10.0, -20.0], [-30.0, -40.1]]})
    (part,) = compare_reference(INPUTS, _changed(reference={"train": other}), "float32", same_device=True)
    assert part.state == "different"
    assert part.first == "row 1: -40.0 before, -40.1 now"
    assert part.largest == pytest.approx(0.1 / 40)
    later = LOGPS.model_copy(update={"sha256": "b"})
    (part,) = compare_reference(INPUTS, _changed(reference={"train": later}), "float32", same_device=True)
    assert (part.state, part.text) == ("close", "log-probabilities of the first 2 of 2 rows are equal, and later ones "
                                       "are not")  # fmt: skip


def test_a_run_of_an_earlier_version_has_no_inputs(tmp_path: Path) -> None:
    assert [part.state for part in compare_inputs(None, INPUTS)] == ["unknown"]
    assert compare_reference(None, INPUTS, "float32", same_device=True) == []
    (tmp_path / "inputs.json").write_text("{")
    assert RunInputs.read(tmp_path / "inputs.json") is None
    assert RunInputs.read(tmp_path / "nothing.json") is None
    losses = compare_numbers("losses", "", [("step 1", 1.0, 1.1)], 1e-6)
    assert (likely_cause([*compare_inputs(None, INPUTS), losses], [], "cpu") or "").startswith("not known")


def test_only_the_first_steps_are_compared(tmp_path: Path) -> None:
    before, now = _run(tmp_path / "before", [0.7, 0.6]), _run(tmp_path / "now", [0.7, 0.9])
    (part,) = compare_losses(before, now, "float32", same_device=True, last_step=1)
    assert (part.state, part.text) == ("equal", "1 logged steps up to 1")
    none = _run(tmp_path / "none", [])
    (part,) = compare_losses(before, none, "float32", same_device=True, last_step=None)
    assert part.state == "unknown"


def test_metrics_and_weights(tmp_path: Path) -> None:
    before, now = _run(tmp_path / "before", []), _run(tmp_path / "now", [])
    old = RunResult(status="finished", recipe="x", metrics={"eval_loss": 0.5, "eval_rewards/accuracies": None})
    assert list(compare_results(old, now, "float32", same_device=True)) == [], "it was ended early"
    assert list(compare_weights(before, now)) == []
    old.with_changes(metrics={"eval_loss": 0.5, "eval_rewards/accuracies": 0.5}).write(now.result)
    (part,) = compare_results(old, now, "float32", same_device=True)
    assert (part.state, part.first) == ("different", "eval_rewards/accuracies: None before, 0.5 now")
    for run, content in ((before, b"a"), (now, b"b")):
        (run.path / "model").mkdir()
        (run.path / "model" / "adapter_model.safetensors").write_bytes(content)
    (part,) = compare_weights(before, now)
    assert (part.state, part.first) == ("close", "adapter_model.safetensors")
    (before.path / "model" / "adapter_model.safetensors").unlink()
    (part,) = compare_weights(before, now)
    assert part.state == "unknown"


def test_what_is_not_finite_equals_itself_only() -> None:
    assert compare_numbers("x", "", [("a", None, float("nan"))], 1e-6).state == "equal"
    part = compare_numbers("x", "", [("a", 1.0, None)], 1e-6)
    assert (part.state, part.largest) == ("different", None)


def test_16_bits_allow_more() -> None:
    assert allowed_difference("float32", same_device=True, is_late=False) == 1e-6
    assert allowed_difference("float32", same_device=False, is_late=False) == pytest.approx(1e-4)
    assert allowed_difference("bfloat16", same_device=True, is_late=False) == 2e-2
    assert allowed_difference("bfloat16", same_device=False, is_late=True) == 0.1
