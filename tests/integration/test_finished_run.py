"""A finished run opens with the model, tokenizer and chat template that it trained."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import recipe_text, save_tiny_model, write_pairs

from dpo_recipes.data.render import render_prompt
from dpo_recipes.data.rows import Row
from dpo_recipes.errors import RunError
from dpo_recipes.evaluate.samples import generate_answers
from dpo_recipes.finished_run import FinishedRun, LoadedModel, open_run
from dpo_recipes.run_result import RunResult

Work = Callable[..., "Outcome"]  # noqa: F821


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs.jsonl")


def answers_of(finished: FinishedRun, loaded: LoadedModel) -> list[str]:
    """The answers of the loaded model to the prompts of the run's samples."""
    prompts = [sample.prompt or "" for sample in finished.result.samples]
    rows = [Row([{"role": "user", "content": prompt}], [], where="sample") for prompt in prompts]
    texts = [render_prompt(row, loaded.chat.renderer) for row in rows]
    return generate_answers(loaded.policy, loaded, texts, finished.recipe.evaluation.max_new_tokens)


@pytest.mark.parametrize("adapter", ["null", "{kind: lora, r: 4}", "{kind: lora, r: 4, save_as: merged}"])
def test_a_loaded_model_answers_as_it_did_when_its_run_ended(
    work: Work, tiny_model: Path, pairs: Path, tmp_path: Path, adapter: str
) -> None:
    """Also after the run directory was moved, and after the template's file was changed."""
    template = tmp_path / "own.jinja"
    turn = "{{ m.role }}: {{ m.content }}<|im_end|>"
    template.write_text(
        "{# special tokens: <|im_end|>\nend of turn: <|im_end|> #}{% for m in messages %}" + turn + "{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    outcome = work(recipe_text(tiny_model, pairs, f"chat_template: '{template}'", adapter), "training.max_steps=8")
    assert outcome.exit_code == 0
    template.write_text("changed")
    finished = open_run(outcome.run.path.rename(tmp_path / "moved"))
    loaded = finished.load()
    assert (loaded.device, loaded.dtype) == ("cpu", "float32")
    assert finished.result.data.chat_template == loaded.chat.template.name == "own"
    tuned = [sample.tuned for sample in finished.result.samples]
    assert answers_of(finished, loaded) == tuned
    assert tuned != [sample.base for sample in finished.result.samples]


def test_a_base_whose_own_end_is_another_token_stops_where_it_did(work: Work, pairs: Path, tmp_path: Path) -> None:
    """The saved tokenizer's end of sequence is the one of the template; answers also end at that of the base."""
    from transformers import AutoTokenizer

    base = save_tiny_model(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.save_pretrained(base)
    outcome = work(recipe_text(base, pairs, "chat_template: chatml"), "training.max_steps=2")
    loaded = open_run(outcome.run.path).load()
    ids = loaded.tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    assert loaded.chat.end_ids == frozenset(ids)
    assert loaded.tokenizer.eos_token == "<|im_end|>"
    assert sorted(loaded.policy.generation_config.eos_token_id) == sorted(ids)


def test_tokens_that_a_run_added_have_their_trained_rows(work: Work, tiny_model: Path, pairs: Path) -> None:
    extra = "chat_template: llama3"
    outcome = work(recipe_text(tiny_model, pairs, extra), "training.max_steps=2", "model.add_special_tokens=true")
    assert outcome.exit_code == 0
    finished = open_run(outcome.run.path)
    loaded = finished.load()
    assert finished.result.model.added_tokens
    assert answers_of(finished, loaded) == [sample.tuned for sample in finished.result.samples]


def test_a_model_that_is_gone_is_an_error_with_its_folder(work: Work, tiny_model: Path, pairs: Path) -> None:
    outcome = work(recipe_text(tiny_model, pairs), "training.max_steps=1")
    (outcome.run.path / "model" / "adapter_model.safetensors").unlink()
    with pytest.raises(RunError, match="M504") as caught:
        open_run(outcome.run.path).load()
    assert str(outcome.run.path / "model") in str(caught.value)


def test_the_result_of_a_run_has_only_declared_fields(work: Work, tiny_model: Path, pairs: Path) -> None:
    """What the stages write is what `RunResult` declares, and nothing is lost in between."""
    outcome = work(recipe_text(tiny_model, pairs), "training.max_steps=1")
    result = open_run(outcome.run.path).result
    parts: list[Any] = [result.model, result.environment, result.data, result.processes]
    assert [part.model_extra for part in parts] == [{}, {}, {}, {}]
    assert RunResult.from_json(outcome.result).to_json() == json.loads(outcome.run.result.read_text()) == outcome.result
    expected = {field.serialization_alias or name for name, field in RunResult.model_fields.items()}
    assert set(outcome.result) == expected
    missing = {name for name, value in outcome.result.items() if value is None}
    assert missing == {"matmul_share", "resumed_from_step", "ended_early"}


def test_the_example_in_the_documents_works(
    work: Work, tiny_model: Path, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "open_run" in block)
    outcome = work(recipe_text(tiny_model, pairs), "training.max_steps=1")
    exec(re.sub(r'Path\("runs/.*?"\)', f"Path({str(outcome.run.path)!r})", example), {})
    assert f"{outcome.result['metrics']['eval_loss']} {tiny_model}" in capsys.readouterr().out
