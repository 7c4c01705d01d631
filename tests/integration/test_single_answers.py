"""Labelled rows and dialogues from their files to the trainer: what is trained on, reported and refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import make_tokenizer, recipe_text, write_pairs
from typer.testing import CliRunner

from dpo_recipes.cli import app
from dpo_recipes.data.chat_template import apply_template
from dpo_recipes.data.prepare import load_rows
from dpo_recipes.data.tokenize import TokenizedSplits, tokenize_splits
from dpo_recipes.errors import DataError, DpoRecipeError
from dpo_recipes.objectives.base import RowShape
from dpo_recipes.recipe.schema.data import Data, Source

Work = Callable[..., "Outcome"]  # noqa: F821
LABELLED = [
    {"prompt": f"{n} plus one?", "completion": f"It is {n + 1}, I think.", "label": n % 3 > 0} for n in range(9)
]
TALK = [
    {"role": "user", "content": "Name a tree."},
    {"role": "assistant", "content": "The oak."},
    {"role": "user", "content": "Another one?"},
    {"role": "assistant", "content": "The ash."},
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPO_RECIPE_CACHE", str(tmp_path / "cache"))


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tokenize(folder: Path, rows: list[Any], shape: RowShape, **fields: Any) -> TokenizedSplits:
    columns = fields.pop("columns", {})
    data = Data(train=[Source(path=str(write(folder / "rows.jsonl", rows)), columns=columns)], **fields)
    tokenizer = make_tokenizer()
    renderer = apply_template(tokenizer, "chatml", add_special_tokens=False).renderer
    return tokenize_splits(load_rows(data, 1, shape), tokenizer, renderer, data)


def trained_text(splits: TokenizedSplits, index: int = 0) -> str:
    """The trained tokens of the first answer of a row, as text; context is left out."""
    row = splits.for_trainer("train")[index]
    (ids, *_), ((runs), *_) = row["answer_ids"], row.get("answer_context") or [[]]
    context = {at for start, stop in zip(runs[::2], runs[1::2], strict=True) for at in range(start, stop)}
    return make_tokenizer().decode([token for at, token in enumerate(ids) if at not in context])


def test_labels_become_a_column_and_are_counted(tmp_path: Path) -> None:
    splits = tokenize(tmp_path, LABELLED, "labelled")
    dataset, report = splits.for_trainer("train"), splits.reports["train"]
    assert dataset.column_names == ["prompt_ids", "answer_ids", "label", "row"]
    assert dataset["label"] == [row["label"] for row in LABELLED]
    assert {len(answers) for answers in dataset["answer_ids"]} == {1}
    assert (report.desirable, report.undesirable) == (6, 3)
    assert report.lengths.keys() == {"prompt", "completion", "row"}
    assert splits.lengths["train"].shape == (9, 2)
    assert report.tokens == splits.lengths["train"].sum()


def test_weights_and_margins_become_columns(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}?", "chosen": "Yes, it is.", "rejected": "No.", "w": n / 4, "m": 2 * n} for n in range(3)]
    dataset = tokenize(tmp_path, rows, "pair", columns={"weight": "w", "margin": "m"}).for_trainer("train")
    assert dataset.column_names == ["prompt_ids", "answer_ids", "weight", "margin", "row"]
    assert dataset["weight"] == [0.0, 0.25, 0.5]
    assert dataset["margin"] == [0.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("turns", "prompt", "trained"),
    [
        ("assistant", "Name a tree.", "The oak.<|im_end|>\nThe ash.<|im_end|>\n"),
        ("last", "Another one?", "The ash.<|im_end|>\n"),
        (
            "all",
            "Name a tree.",
            "The oak.<|im_end|>\n<|im_start|>user\nAnother one?<|im_end|>\n<|im_start|>assistant\nThe ash.<|im_end|>\n",
        ),
    ],
)
def test_the_turns_of_a_dialogue_that_are_trained_on(tmp_path: Path, turns: Any, prompt: str, trained: str) -> None:
    splits = tokenize(tmp_path, [{"messages": TALK}], "completion", train_on_turns=turns)
    assert trained_text(splits) == trained
    text = make_tokenizer().decode(splits.for_trainer("train")[0]["prompt_ids"])
    assert text.endswith(f"{prompt}<|im_end|>\n<|im_start|>assistant\n")
    assert splits.reports["train"].masked_rows == (turns == "assistant")


@pytest.mark.parametrize(
    ("rows", "what", "fix"),
    [
        ([{**row, "label": True} for row in LABELLED], "all 7 labelled training rows have good", "{kind: sft}"),
        ([{**row, "label": False} for row in LABELLED], "all 7 labelled training rows have bad", "add good answers"),
    ],
)
def test_one_class_is_an_error_with_its_line(
    work: Work, tiny_model: Path, tmp_path: Path, rows: list[Any], what: str, fix: str
) -> None:
    outcome = work(kto_recipe(tiny_model, write(tmp_path / "rows.jsonl", rows)))
    assert (outcome.exit_code, outcome.codes) == (4, ["D414"])
    assert "model" not in [event.get("name") for event in outcome.events], "before a weight is loaded"
    (error,) = [event for event in outcome.events if event["event"] == "error"]
    (finding,) = error["findings"]
    assert what in finding["what"]
    assert fix in finding["fix"]
    assert finding["at"] == ["data", "train"]


def test_equal_answers_with_both_labels_contradict_each_other(tmp_path: Path) -> None:
    rows = [*LABELLED, {**LABELLED[0], "label": True}, {**LABELLED[1], "prompt": "Another?", "label": False}]
    (warning,) = tokenize(tmp_path, rows, "labelled").warnings
    assert (warning.code, warning.severity) == ("D432", "warning")
    assert "labels contradict each other: 2 of 11 rows (train)" in warning.what
    assert "the first are rows.jsonl:1 and rows.jsonl:10" in warning.what


def test_an_answer_may_quote_its_question_once(tmp_path: Path) -> None:
    quoting = [{**row, "completion": f"You ask: {row['prompt']} It is more."} for row in LABELLED]
    assert tokenize(tmp_path, quoting, "labelled").warnings == []
    repeating = [{**row, "completion": f"{row['prompt']} It is more."} for row in LABELLED]
    with pytest.raises(DataError, match="D431"):
        tokenize(tmp_path, repeating, "labelled")


def test_other_checks_name_the_one_answer(tmp_path: Path) -> None:
    (warning,) = tokenize(tmp_path, [*LABELLED, {**LABELLED[1], "completion": "null"}], "labelled").warnings
    assert warning.code == "D433"
    assert "`completion` is `null`" in warning.what


def kto_recipe(model: Path, rows: Path) -> str:
    return recipe_text(model, rows, "objective: {kind: kto}\nchat_template: chatml\n")


def command(*arguments: object) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if isinstance(result.exception, DpoRecipeError):
        raise result.exception
    if result.exception is not None:
        raise result.exception
    assert result.exit_code == 0
    return result.stdout


@pytest.fixture
def kto_file(tmp_path: Path, tiny_model: Path) -> Path:
    """A KTO recipe on 24 pairs."""
    path = tmp_path / "recipe.yaml"
    path.write_text(kto_recipe(tiny_model, write_pairs(tmp_path / "pairs.jsonl")), encoding="utf-8")
    return path


def test_the_data_command_shows_labelled_rows(kto_file: Path, tmp_path: Path) -> None:
    text = command("data", kto_file, "--show", 2, "--html", tmp_path / "page.html")
    assert "train: 36 rows, " in text
    assert "converted 24 pairs became 48 labelled rows" in text
    assert "labels    18 good answers, 18 bad ones" in text
    assert "tokens of a row before truncation" in text
    assert ", good answer: tokens of prompt" in text
    assert "--- completion" in text
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for part in ("36 training rows", "24 pairs became 48 labelled rows", "Good answers", "Completion", "Whole rows"):
        assert part in page
    assert "rejected" not in page.lower().partition("<body")[2]


def test_the_plan_shows_conversions(kto_file: Path) -> None:
    text = command("plan", kto_file, "--read-data")
    assert "answers     36 to train on, 12 held out" in text
    assert "converted   24 pairs became 48 labelled rows (train)" in text
    plan = json.loads(command("plan", kto_file, "--read-data", "--json"))
    assert plan["conversions"]["train"] == [{"from": "pairs", "to": "labelled rows", "rows": 24, "made": 48}]


@pytest.mark.parametrize("kind", ["kto", "sft"])
def test_a_run_on_pairs_ends_with_a_report_that_names_the_conversion(
    work: Work, tiny_model: Path, tmp_path: Path, kind: str
) -> None:
    text = recipe_text(tiny_model, write_pairs(tmp_path / "pairs.jsonl"), f"objective: {{kind: {kind}}}\n")
    outcome = work(text + "chat_template: chatml\n")
    assert outcome.exit_code == 0
    named = {"kto": "24 pairs became 48 labelled rows", "sft": "24 pairs became 24 completions"}[kind]
    assert f"Converted (train): {named}." in outcome.run.report.read_text(encoding="utf-8")
    notes = [event["text"] for event in outcome.events if event["event"] == "note"]
    assert any(named in note for note in notes)
