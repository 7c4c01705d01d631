"""Data and models that are wrong: the right code, the right exit code, and nothing that looks finished."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import recipe_text, write_pairs

from dpo_recipes.engine import prefix_trial
from dpo_recipes.errors import RunError
from dpo_recipes.model.loading import loading_errors
from dpo_recipes.model.sources import ModelLocation

Work = Callable[..., Any]
GOOD = {"prompt": "Hello?", "chosen": "Yes.", "rejected": "Well, that depends."}


def _rows(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([], "D403"),
        ([{"question": "a", "better": "b", "worse": "c"}], "D402"),
        ([{"prompt": "a", "chosen": "b"}], "D402"),
        ([GOOD, {**GOOD, "chosen": ""}], "D404"),
        ([GOOD, {**GOOD, "chosen": None}], "D404"),
        ([GOOD, {**GOOD, "prompt": 5}], "D404"),
        ([GOOD, {**GOOD, "rejected": "Yes."}], "D405"),
        ([GOOD], "D407"),
        ([GOOD, [1, 2]], "D401"),
    ],
)
def test_bad_rows(work: Work, tiny_model: Path, tmp_path: Path, rows: list[object], code: str) -> None:
    outcome = work(recipe_text(tiny_model, _rows(tmp_path / "pairs.jsonl", *rows)))
    assert outcome.codes[0] == code
    assert outcome.exit_code == 4
    assert not outcome.run.result.exists()
    assert not (outcome.run.path / "model").exists()


def test_a_bad_row_is_named_with_its_line(work: Work, tiny_model: Path, tmp_path: Path) -> None:
    outcome = work(recipe_text(tiny_model, _rows(tmp_path / "pairs.jsonl", GOOD, GOOD, {**GOOD, "chosen": " "})))
    finding = outcome.events[-1]["findings"][0]
    assert finding["what"] == "pairs.jsonl:3: `chosen` is empty"


def test_invalid_json_is_named_with_line_and_column(work: Work, tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(GOOD) + '\n{"prompt": }\n')
    outcome = work(recipe_text(tiny_model, path))
    assert outcome.codes == ["D401"]
    assert "pairs.jsonl:2: not valid JSON at column 12" in outcome.events[-1]["findings"][0]["what"]


def test_a_truncated_gzip_is_an_error_and_not_a_shorter_file(work: Work, tiny_model: Path, tmp_path: Path) -> None:
    import gzip

    path = tmp_path / "pairs.jsonl.gz"
    path.write_bytes(gzip.compress(write_pairs(tmp_path / "p.jsonl", 500).read_bytes())[:-20])
    outcome = work(recipe_text(tiny_model, path))
    assert (outcome.exit_code, outcome.codes) == (4, ["D401"])


def test_dropped_rows_are_counted_by_reason(work: Work, tiny_model: Path, tmp_path: Path) -> None:
    good = [{**GOOD, "prompt": f"Question {number}?"} for number in range(20)]
    path = _rows(tmp_path / "pairs.jsonl", *good, {**GOOD, "chosen": ""}, {**GOOD, "rejected": "Yes."})
    outcome = work(recipe_text(tiny_model, path), "data.on_bad_row=drop")
    assert outcome.exit_code == 0
    report = json.loads(outcome.run.data_report.read_text())["splits"]["train"]
    assert report["dropped"] == {"no_text": 1, "equal_answers": 1}
    assert report["examples"]["no_text"] == ["pairs.jsonl:21"]


def test_overlong_pairs_are_dropped_and_counted_or_refused(work: Work, tiny_model: Path, tmp_path: Path) -> None:
    rows = [{**GOOD, "prompt": f"Question {number}? " + "and " * (200 * (number == 0))} for number in range(20)]
    text = recipe_text(tiny_model, _rows(tmp_path / "pairs.jsonl", *rows))
    splits = json.loads(work(text, "data.overlong=drop").run.data_report.read_text())["splits"]
    assert sum(split["dropped"].get("overlong", 0) for split in splits.values()) == 1
    refused = work(text, "data.overlong=error")
    assert (refused.exit_code, refused.codes) == (4, ["D408"])


def test_an_unreadable_model_folder(work: Work, tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    (broken / "model.safetensors").write_bytes(b"not a safetensors file")
    outcome = work(recipe_text(broken, write_pairs(tmp_path / "pairs.jsonl")))
    assert (outcome.exit_code, outcome.codes) == (6, ["M504"])


def test_a_folder_with_a_config_that_is_no_json(work: Work, tiny_model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    outcome = work(recipe_text(broken, write_pairs(tmp_path / "pairs.jsonl")))
    assert (outcome.exit_code, outcome.codes) == (6, ["M504"])


def test_a_tokenizer_without_a_template_says_which_to_choose(work: Work, tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(tiny_model, bare)
    (bare / "chat_template.jinja").unlink()
    text = recipe_text(bare, write_pairs(tmp_path / "pairs.jsonl"))
    outcome = work(text)
    assert (outcome.exit_code, outcome.codes) == (6, ["M505"])
    assert work(text, "chat_template=plain").exit_code == 0


def test_a_template_that_refuses_the_messages(work: Work, tiny_model: Path, tmp_path: Path) -> None:
    template = tmp_path / "strict.jinja"
    template.write_text("{{ raise_exception('no such role') }}")
    outcome = work(recipe_text(tiny_model, write_pairs(tmp_path / "pairs.jsonl"), f"chat_template: {template}"))
    assert (outcome.exit_code, outcome.codes) == (4, ["D420"])


def test_a_device_that_is_not_there(work: Work, tiny_model: Path, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    outcome = work(recipe_text(tiny_model, write_pairs(tmp_path / "pairs.jsonl")), "hardware.device=cuda")
    assert (outcome.exit_code, outcome.codes) == (6, ["M507"])


@pytest.mark.parametrize(("step", "why"), [(1, "no weight has changed yet"), (10, "the weights have diverged")])
def test_a_loss_that_is_no_number_ends_the_run(step: int, why: str) -> None:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from dpo_recipes.engine.callbacks.stop import DivergenceCallback
    from dpo_recipes.errors import RunError

    state = TrainerState(global_step=step)
    DivergenceCallback().on_log(TrainingArguments(), state, TrainerControl(), {"loss": 0.7})
    with pytest.raises(RunError, match="T604") as caught:
        DivergenceCallback().on_log(TrainingArguments(), state, TrainerControl(), {"loss": float("nan")})
    assert why in (caught.value.findings[0].why or "")


def test_a_base_without_numbers_ends_the_run_and_names_a_pair(work: Work, tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "nan"
    shutil.copytree(tiny_model, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], float("nan"))
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    outcome = work(recipe_text(broken, write_pairs(tmp_path / "pairs.jsonl")), "evaluation.num_samples=0")
    assert (outcome.exit_code, outcome.codes) == (6, ["T608"])
    (error,) = [event for event in outcome.events if event["event"] == "error"]
    assert "pairs.jsonl:" in error["findings"][0]["what"]
    assert not outcome.run.result.exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError()])
def test_failures_of_the_machine_are_told_from_bugs(
    work: Work, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: object, **settings: object) -> None:
        raise error

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", fail)
    monkeypatch.setattr("peft.PeftModel.save_pretrained", fail)
    outcome = work(recipe_text(tiny_model, write_pairs(tmp_path / "pairs.jsonl")))
    assert outcome.exit_code == 6
    assert outcome.codes == ["T602" if isinstance(error, OSError) else "T603"]
    assert not outcome.run.result.exists()
    assert not (outcome.run.path / "model").exists()


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (MemoryError(), "T603"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"), "T603"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "T603"),
        (OSError(28, "No space left on device"), "T602"),
        (OSError("Unable to load weights from pytorch checkpoint file"), "M504"),
    ],
)
@pytest.mark.parametrize("is_wrapped", [False, True])
def test_a_lack_of_the_machine_is_no_fault_of_the_model_that_is_loaded(
    tmp_path: Path, raised: Exception, code: str, is_wrapped: bool
) -> None:
    def load() -> None:
        if is_wrapped:
            raise OSError("the file cannot be loaded") from raised
        raise raised

    with pytest.raises(RunError) as caught, loading_errors("the model", ModelLocation(str(tmp_path))):
        load()
    (finding,) = caught.value.findings
    assert finding.code == code
    assert f"the model {tmp_path}" in finding.what


def test_a_run_whose_base_does_not_fit_into_memory_says_so(
    work: Work, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*arguments: object, **settings: object) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", load)
    outcome = work(recipe_text(tiny_model, write_pairs(tmp_path / "pairs.jsonl")))
    assert (outcome.exit_code, outcome.codes) == (6, ["T603"])


def test_packed_rows_that_do_not_fit_into_memory_are_no_unsupported_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Padded rows would need even more."""

    def compute(*arguments: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    packing = SimpleNamespace(scatter=None)
    monkeypatch.setattr(prefix_trial, "compute_packed", compute)
    with pytest.raises(RuntimeError, match="can't allocate"):
        prefix_trial._compute_packed(None, torch.zeros(1, 1), packing)  # type: ignore[arg-type]
