"""A stopped and resumed run ends with the same weights, metrics and results as an uninterrupted one."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tiny import recipe_text, write_pairs

from dpo_recipes.engine.callbacks.answers import read_answers
from dpo_recipes.engine.callbacks.progress import MetricsCallback
from dpo_recipes.engine.checkpoints.choice import find_start
from dpo_recipes.engine.checkpoints.folder import Checkpoint, newest_first, read
from dpo_recipes.errors import EXIT_RESUMABLE, RunError
from dpo_recipes.fit.planner import target
from dpo_recipes.run_dir import RunDirectory

Work = Callable[..., "Outcome"]  # noqa: F821
_TIMED = ("runtime", "per_second", "memory", "time")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs.jsonl", 40)


@pytest.fixture
def stop_while_evaluating(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Has this process get SIGTERM in the first evaluation after a step, once."""
    original = MetricsCallback.on_prediction_step

    def arrange() -> None:
        def on_prediction_step(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            original(self, args, state, control, **kwargs)
            if state.global_step:
                monkeypatch.setattr(MetricsCallback, "on_prediction_step", original)
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(MetricsCallback, "on_prediction_step", on_prediction_step)

    return arrange


def text(model: Path, pairs: Path, adapter: str = "{kind: lora, r: 4, dropout: 0.2}", extra: str = "") -> str:
    long = recipe_text(model, pairs, extra, adapter).replace("max_steps: 3", "num_epochs: 2, eval_steps: 4")
    return long.replace("logging_steps: 1", "logging_steps: 3")


@pytest.fixture
def calm_and_stopped(work: Work, tiny_model: Path, pairs: Path, stop_at: Callable[[int], None]) -> tuple[str, Any, Any]:
    """A recipe, an uninterrupted run, and one that was stopped after step 7."""
    recipe = text(tiny_model, pairs)
    calm = work(recipe)
    stop_at(6)
    return recipe, calm, work(recipe)


def weights(outcome: Any) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (outcome.run.path / "model").glob("*.safetensors")}


def rows(outcome: Any) -> list[dict[str, Any]]:
    plain = [json.loads(line) for line in outcome.run.metrics.read_text().splitlines()]
    return [{k: v for k, v in row.items() if not any(word in k for word in _TIMED)} for row in plain]


def notes(outcome: Any) -> str:
    return "\n".join(event["text"] for event in outcome.events if event["event"] == "note")


@pytest.mark.parametrize(
    ("adapter", "extra"),
    [
        ("{kind: lora, r: 4, dropout: 0.2}", ""),
        ("null", ""),
        ("{kind: lora, r: 4, init: pissa}", ""),
        ("{kind: lora, r: 4, modules_to_save: [lm_head]}", ""),
        ("{kind: lora, r: 4}", "chat_template: llama3"),
        ("{kind: lora, r: 4}", "objective: {kind: orpo}"),
        ("{kind: lora, r: 4, init: pissa}", "objective: {kind: simpo}"),
        ("null", "objective: {kind: kto}"),
        ("{kind: lora, r: 4}", "objective: {kind: sft}"),
        ("null", "objective: {kind: dpo, sync_ref_model: true, ref_model_sync_steps: 3}"),
        ("{kind: lora, r: 4, dropout: 0.2}", "objective: {kind: dpo, sync_ref_model: true, ref_model_sync_steps: 3}"),
        ("{kind: lora, r: 4, init: pissa}", "objective: {kind: dpo, sync_ref_model: true, ref_model_sync_steps: 3}"),
    ],
    ids=[
        *("lora", "full", "pissa", "modules_to_save", "new_tokens", "orpo", "pissa_simpo", "kto", "sft"),
        *("live", "live_lora", "live_pissa"),
    ],
)
def test_stopped_and_gone_on_is_the_same_to_the_bit(
    work: Work, tiny_model: Path, pairs: Path, stop_at: Callable[[int], None], adapter: str, extra: str
) -> None:
    recipe = text(tiny_model, pairs, adapter, extra)
    overrides = ["model.add_special_tokens=true"] if "chat_template" in extra else []
    calm = work(recipe, *overrides)
    assert calm.exit_code == 0
    stop_at(6)
    stopped = work(recipe, *overrides)
    assert (stopped.exit_code, stopped.codes) == (EXIT_RESUMABLE, ["I101"])
    assert not stopped.run.result.exists()
    again = work(recipe, *overrides, resume=True)
    assert again.run.path == stopped.run.path
    assert again.exit_code == 0
    assert again.result["resumed_from_step"] == 7
    assert weights(again) == weights(calm)
    assert len(weights(calm)) > 0
    assert rows(again) == rows(calm)
    for part in ("metrics", "base_metrics", "samples", "steps", "epochs"):
        assert again.result[part] == calm.result[part], part


def test_answers_at_evaluations_survive_a_stop_and_change_nothing(
    work: Work, tiny_model: Path, pairs: Path, stop_at: Callable[[int], None]
) -> None:
    recipe = text(tiny_model, pairs)  # 16 steps, an evaluation every 4, with dropout
    without, calm = work(recipe), work(recipe, "evaluation.samples_each_eval=2")
    assert without.result["answers_by_step"] == []
    assert weights(calm) == weights(without)
    assert rows(calm) == rows(without)
    assert [at["step"] for at in calm.result["answers_by_step"]] == [4, 8, 12, 16]
    assert [len(at["answers"]) for at in calm.result["answers_by_step"]] == [2] * 4
    assert calm.result["answers_by_step"][-1]["answers"] == [at["tuned"] for at in calm.result["samples"]]
    assert "Answers during training" in calm.run.report.read_text(encoding="utf-8")
    stop_at(6)
    stopped = work(recipe, "evaluation.samples_each_eval=2")
    assert stopped.exit_code == EXIT_RESUMABLE
    again = work(recipe, "evaluation.samples_each_eval=2", resume=True)
    assert again.result["answers_by_step"] == calm.result["answers_by_step"]
    assert again.result["samples"] == calm.result["samples"]
    assert weights(again) == weights(calm)


def test_answers_at_an_evaluation_that_is_repeated_count_once(tmp_path: Path) -> None:
    lines = [
        '{"step": 8, "answers": ["old"]}',
        '{"step": 4, "answers": ["a"]}',
        '{"step": 8, "answers": ["new"]}',
        '{"st',
    ]
    (tmp_path / "answers.jsonl").write_text("\n".join(lines))
    assert [(at.step, at.answers) for at in read_answers(tmp_path / "answers.jsonl")] == [(4, ["a"]), (8, ["new"])]
    assert read_answers(tmp_path / "absent.jsonl") == []


def test_an_evaluation_that_the_stop_left_out_is_made_up_for(
    work: Work, tiny_model: Path, pairs: Path, stop_at: Callable[[int], None]
) -> None:
    recipe = text(tiny_model, pairs)
    calm = work(recipe)
    stop_at(3)  # the run ends after step 4, which is due for an evaluation
    stopped = work(recipe)
    assert [row["step"] for row in rows(stopped) if "eval_loss" in row] == [0]
    again = work(recipe, resume=True)
    assert rows(again) == rows(calm)


@pytest.mark.parametrize("eval_steps", ["5", "epoch"])
def test_one_that_was_stopped_in_its_last_step_takes_no_other(
    work: Work, tiny_model: Path, pairs: Path, stop_at: Callable[[int], None], eval_steps: str
) -> None:
    part = f"num_epochs: 1.5, eval_steps: {eval_steps}, lr_scheduler: constant"  # late steps still change the weights
    recipe = text(tiny_model, pairs).replace("num_epochs: 2, eval_steps: 4", part)
    calm = work(recipe)
    last = calm.result["steps"]
    assert 1 < calm.result["epochs"] < 2
    stop_at(last - 1)
    stopped = work(recipe)
    assert (stopped.exit_code, stopped.codes) == (EXIT_RESUMABLE, ["I101"])
    again = work(recipe, resume=True)
    assert again.result["resumed_from_step"] == again.result["steps"] == last
    assert rows(again) == rows(calm)
    assert weights(again) == weights(calm)


def test_one_that_was_stopped_after_its_last_step_takes_no_other(
    work: Work, tiny_model: Path, pairs: Path, stop_while_evaluating: Callable[[], None]
) -> None:
    part = "num_epochs: 1.5, lr_scheduler: constant"
    recipe = text(tiny_model, pairs).replace("num_epochs: 2, eval_steps: 4", part)
    recipe += "checkpoints: {save_steps: 4}\n"
    calm = work(recipe)
    stop_while_evaluating()
    stopped = work(recipe)
    assert (stopped.exit_code, stopped.codes) == (EXIT_RESUMABLE, ["I101"])
    again = work(recipe, resume=True)
    assert again.result["resumed_from_step"] == again.result["steps"] == calm.result["steps"] == 12
    assert rows(again) == rows(calm)
    assert weights(again) == weights(calm)


@pytest.mark.parametrize("eval_steps", ["4", "epoch"])
def test_an_evaluation_that_is_going_on_is_left_and_made_up_for(
    work: Work, tiny_model: Path, pairs: Path, stop_while_evaluating: Callable[[], None], eval_steps: str
) -> None:
    recipe = text(tiny_model, pairs).replace("eval_steps: 4", f"eval_steps: {eval_steps}")
    calm = work(recipe)
    first = next(row["step"] for row in rows(calm) if "eval_loss" in row and row["step"])
    stop_while_evaluating()
    stopped = work(recipe)
    assert (stopped.exit_code, stopped.codes) == (EXIT_RESUMABLE, ["I101"])
    assert [row["step"] for row in rows(stopped) if "eval_loss" in row] == [0]
    stop_while_evaluating()  # now in the one that is made up for
    assert work(recipe, resume=True).exit_code == EXIT_RESUMABLE
    again = work(recipe, resume=True)
    assert again.result["resumed_from_step"] == first
    assert (weights(again), rows(again)) == (weights(calm), rows(calm))


def test_the_best_of_an_evaluation_that_is_made_up_for(
    work: Work, tiny_model: Path, pairs: Path, stop_at: Callable[[int], None]
) -> None:
    """The held-out loss belongs to the step that the run was stopped after, not to the next that is saved."""
    recipe = text(tiny_model, pairs, extra="checkpoints: {save_steps: 3, save_total_limit: 9, keep_best: true}")
    calm = work(recipe)
    stop_at(3)  # the run ends after step 4, which is due for an evaluation
    work(recipe)
    again = work(recipe, resume=True)
    best = [
        {path.name: read(path).facts.get("eval_loss") for path in newest_first(outcome.run.checkpoints)}
        for outcome in (again, calm)
    ]
    assert best[1]["checkpoint-4"] is not None
    assert best[0] == best[1]
    assert (weights(again), rows(again)) == (weights(calm), rows(calm))


def test_a_stop_at_the_end_of_an_epoch(
    work: Work, tiny_model: Path, pairs: Path, stop_at: Callable[[int], None]
) -> None:
    recipe = text(tiny_model, pairs).replace("eval_steps: 4", "eval_steps: epoch")
    calm = work(recipe)
    per_epoch = calm.result["steps"] // 2
    stop_at(per_epoch - 1)
    assert work(recipe).exit_code == EXIT_RESUMABLE
    again = work(recipe, resume=True)
    assert rows(again) == rows(calm)
    assert weights(again) == weights(calm)


def test_a_damaged_checkpoint_is_passed_over(
    work: Work, tiny_model: Path, pairs: Path, stop_at: Callable[[int], None]
) -> None:
    recipe = text(tiny_model, pairs, extra="checkpoints: {save_steps: 2}")
    calm = work(recipe)
    stop_at(6)
    stopped = work(recipe)
    newest, older = list(newest_first(stopped.run.checkpoints))
    assert (newest.name, older.name) == ("checkpoint-7", "checkpoint-6")
    damaged = newest / "optimizer.pt"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    again = work(recipe, resume=True)
    assert "checkpoint-7 is damaged and is not used: the checksum of optimizer.pt differs" in notes(again)
    assert again.result["resumed_from_step"] == 6
    assert weights(again) == weights(calm)


def test_a_damaged_best_is_reported(work: Work, tiny_model: Path, pairs: Path, stop_at: Callable[[int], None]) -> None:
    recipe = text(tiny_model, pairs, extra="checkpoints: {save_steps: 3, save_total_limit: 9, keep_best: true}")
    stop_at(6)
    stopped = work(recipe)
    best = stopped.run.checkpoints / "checkpoint-4"
    assert read(best).facts["is_best"]
    (best / "adapter_model.safetensors").write_bytes(b"cut")
    again = work(recipe, resume=True)
    assert again.exit_code == 0
    assert again.result["resumed_from_step"] == 7
    assert "checkpoint-4, the best one so far, is damaged: adapter_model.safetensors has 3 bytes" in notes(again)


def test_lost_rows_of_metrics_are_reported(work: Work, calm_and_stopped: tuple[str, Any, Any]) -> None:
    recipe, calm, stopped = calm_and_stopped
    stopped.run.metrics.unlink()
    again = work(recipe, resume=True)
    assert "metrics.jsonl has lost rows" in notes(again)
    assert weights(again) == weights(calm)


def test_without_a_whole_checkpoint_it_begins_anew(work: Work, calm_and_stopped: tuple[str, Any, Any]) -> None:
    recipe, calm, stopped = calm_and_stopped
    (only,) = newest_first(stopped.run.checkpoints)
    (only / "adapter_model.safetensors").write_bytes(b"cut")
    again = work(recipe, resume=True)
    assert "adapter_model.safetensors has 3 bytes" in notes(again)
    assert again.result["resumed_from_step"] is None
    assert (weights(again), rows(again)) == (weights(calm), rows(calm))


def test_other_data_are_refused(work: Work, tiny_model: Path, pairs: Path, stop_at: Callable[[int], None]) -> None:
    recipe = text(tiny_model, pairs)
    stop_at(6)
    work(recipe)
    write_pairs(pairs, 41)
    again = work(recipe, resume=True)
    assert (again.exit_code, again.codes) == (6, ["T616"])


def test_another_base_is_refused(
    work: Work, tiny_model: Path, pairs: Path, tmp_path: Path, stop_at: Callable[[int], None]
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    recipe = text(base, pairs)
    stop_at(6)
    work(recipe)
    weights_file = base / "model.safetensors"
    save_file({name: 1.5 * tensor for name, tensor in load_file(weights_file).items()}, weights_file, {"format": "pt"})
    again = work(recipe, resume=True)
    assert (again.exit_code, again.codes) == (6, ["T619"])


def test_metrics_that_a_power_cut_has_torn(work: Work, calm_and_stopped: tuple[str, Any, Any]) -> None:
    recipe, calm, stopped = calm_and_stopped
    written = stopped.run.metrics.read_bytes()
    stopped.run.metrics.write_bytes(written[: len(written) // 2])
    again = work(recipe, resume=True)
    assert (again.exit_code, again.codes) == (0, [])
    assert weights(again) == weights(calm)
    assert 0 < len(rows(again)) < len(rows(calm))


def test_what_was_decided_for_want_of_memory_stays(
    work: Work, tiny_model: Path, pairs: Path, stop_at: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `--fit` a resumed run keeps the settings with which it began, however much memory is free later."""
    recipe = text(tiny_model, pairs)
    first = work(recipe, "training.num_epochs=0.1")
    needed = json.loads(first.run.plan.read_text())["prediction"]["peak_bytes"]
    with monkeypatch.context() as tight:
        tight.setattr(target, "free_memory_bytes", lambda kind: needed - 2**18)
        stop_at(6)
        stopped = work(recipe, "hardware.fit=true")
    settings = read(next(newest_first(stopped.run.checkpoints))).facts["training"]
    assert (settings["micro_batch_size"], settings["gradient_checkpointing"]) != (2, False)
    again = work(recipe, "hardware.fit=true", "checkpoints={save_steps: 9}", resume=True)
    assert again.exit_code == 0
    assert read(next(newest_first(again.run.checkpoints))).facts["training"] == settings


def test_the_last_and_the_best_checkpoints_stay(work: Work, tiny_model: Path, pairs: Path, tmp_path: Path) -> None:
    """The held-out pairs prefer what the training pairs reject, so every step makes them worse: the first is best."""
    reversed_pairs = [json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines()]
    for row in reversed_pairs:
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    held_out = tmp_path / "reversed.jsonl"
    held_out.write_text("".join(json.dumps(row) + "\n" for row in reversed_pairs), encoding="utf-8")
    keeping = "checkpoints: {save_steps: 1, save_total_limit: 1, keep_best: true}"
    recipe = text(tiny_model, pairs, adapter="{kind: lora, r: 4}", extra=keeping)
    recipe = recipe.replace("eval_steps: 4", "eval_steps: 1, lr_scheduler: constant")
    recipe = recipe.replace("learning_rate: 1e-2", "learning_rate: 1e-3")
    outcome = work(recipe.replace("eval: {fraction: 0.25}", f"eval: {{sources: [{{path: '{held_out}'}}]}}"))
    assert outcome.exit_code == 0
    evaluated = {row["step"]: row["eval_loss"] for row in rows(outcome) if "eval_loss" in row and row["step"]}
    best, last = min(evaluated, key=lambda step: evaluated[step]), outcome.result["steps"]
    assert best == 1 < last
    assert {path.name for path in newest_first(outcome.run.checkpoints)} == {f"checkpoint-{best}", f"checkpoint-{last}"}
    assert f"the model of step {best} is kept" in notes(outcome)
    assert outcome.result["metrics"]["eval_loss"] == pytest.approx(evaluated[best], rel=1e-5)
    saved = (outcome.run.path / "model" / "adapter_model.safetensors").read_bytes()
    assert saved == (outcome.run.checkpoints / f"checkpoint-{best}" / "adapter_model.safetensors").read_bytes()


def test_a_step_that_was_not_asked_to_stop_leaves_no_word_of_it(work: Work, tiny_model: Path, pairs: Path) -> None:
    outcome = work(text(tiny_model, pairs))
    assert list(newest_first(outcome.run.checkpoints)) == []
    assert outcome.result["resumed_from_step"] is None


def test_a_node_that_does_not_see_the_checkpoint_says_so(tmp_path: Path) -> None:
    elsewhere = Checkpoint(tmp_path / "nosuch" / "checkpoint-3", 3, {"data": "abc"})
    processes = SimpleNamespace(is_main=False, share=lambda mine: (elsewhere, None, ()))
    with pytest.raises(RunError, match="T618"):
        find_start(RunDirectory(tmp_path), "abc", processes, None, None)


@pytest.mark.parametrize("step", [2, 5, 7], ids=["before", "at the evaluation before the last", "at the last step"])
def test_early_stopping_ends_a_resumed_run_at_the_same_step(
    work: Work, tiny_model: Path, pairs: Path, stop_at: Callable[[int], None], step: int
) -> None:
    """A `min_delta` that no evaluation reaches: the first one, at step 4, is the best, and that at step 8 ends it."""
    recipe = text(tiny_model, pairs).replace(
        "eval_steps: 4", "eval_steps: 4, early_stopping: {patience: 1, min_delta: 9.0}"
    )
    calm = work(recipe)
    assert calm.result["steps"] == 8
    assert "has not improved in the last evaluation" in calm.result["ended_early"]
    assert calm.result["metrics"]["eval_loss"] is not None
    stop_at(step)
    stopped = work(recipe)
    assert stopped.codes == ["I101"]
    again = work(recipe, resume=True)
    assert again.result["resumed_from_step"] == step + 1
    assert weights(again) == weights(calm)
    assert rows(again) == rows(calm)
    for part in ("metrics", "steps", "epochs", "ended_early", "guards"):
        assert again.result[part] == calm.result[part], part
