"""Tests of unread columns: the report lists them, and warns if their names indicate that they matter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dpo_recipes.data.column_use import kind_of, score_pairs
from dpo_recipes.data.prepare import RowSplits, load_rows
from dpo_recipes.errors import DataError, Finding
from dpo_recipes.recipe.schema.data import Data, Select, Source

PAIR = {"prompt": "Name a tree.", "chosen": "The oak.", "rejected": "A tree is tall."}


def _load(folder: Path, *rows: dict[str, Any], **fields: Any) -> RowSplits:
    path = folder / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_rows(Data(train=[Source(path=str(path), **fields)]), seed=3)


def _unread(splits: RowSplits) -> dict[str, int]:
    (source,) = splits.reports["train"].sources
    return source["unread"]


def _only(splits: RowSplits) -> Finding:
    (finding,) = splits.warnings
    assert finding.severity == "warning"
    return finding


MISSED = [
    ({"images": ["a.png"]}, "D440", "`images`", "`filter: is_null(images)`"),
    ({"image": {"bytes": "x"}}, "D440", "`image`", "is_null(image)"),
    ({"video_path": "a.mp4"}, "D440", "`video_path`", "is_null(video_path)"),
    ({"Audio Files": ["a.wav"]}, "D440", "`Audio Files`", "is_null(`Audio Files`)"),
    ({"prompt": "<image>What is it?"}, "D440", "`<image>`", "contains"),
    ({"system_prompt": "Be kind."}, "D441", "`system_prompt`", "`columns: {system: system_prompt}`"),
    ({"systemMessage": "Be kind."}, "D441", "`systemMessage`", "{system: systemMessage}"),
    ({"functions": [{"name": "f"}]}, "D441", "`functions`", "{tools: functions}"),
    ({"input": "Good morning"}, "D441", "`input`", r'`columns: {prompt: "{prompt}\n\n{input}"}`'),
    ({"context": "In Peru."}, "D441", "`context`", "{context}"),
    ({"history": [["Hi", "Hello."]]}, "D441", "`history`", "`alpaca` and `ms_swift_query`"),
    ({"winner": "model_b"}, "D442", "`winner`", "`format: winner`"),
    ({"preference": 2}, "D442", "`preference`", "{winner: preference,"),
    ({"label": 0}, "D442", "`label`", "{winner: label,"),
    ({"better_response_id": 1}, "D442", "`better_response_id`", "{winner: better_response_id,"),
    ({"chosen_score": 1, "rejected_score": 2}, "D442", "`chosen_score` is lower than `rejected_score`", "filter"),
    (
        {"chosen-rating": "1.5", "rejected-rating": "2"},
        "D442",
        "`chosen-rating` is lower",
        "`chosen-rating` > `rejected",
    ),
    ({"rating_chosen": 1, "rating_rejected": 4.5}, "D442", "`rating_chosen`", "rating_chosen > rating_rejected"),
    ({"rewardChosen": -2, "rewardRejected": -1}, "D442", "`rewardChosen`", "rewardChosen > rewardRejected"),
    ({"chosen": "The oak.\n\nHuman: Thanks."}, "D443", "`Human:`", "dahoas"),
    ({"chosen": "Assistant: The oak."}, "D443", "`Assistant:`", "hh_rlhf"),
    ({"prompt": "<|image_pad|>Name it."}, "D440", "placeholders", "not contains"),
    ({"prompt": "<img>a.png</img> Name it."}, "D440", "placeholders", "not contains"),
    ({"sys_msg": "Be brief."}, "D441", "`sys_msg`", "{system: sys_msg}"),
    ({"chat_history": ["Hi", "Hello"]}, "D441", "`chat_history`", "columns"),
    ({"context_messages": ["Hi"]}, "D441", "`context_messages`", "columns"),
    ({"which_is_better": "b"}, "D442", "`which_is_better`", "winner: which_is_better"),
    ({"chosen_idx": 1}, "D442", "`chosen_idx`", "winner: chosen_idx"),
    ({"available_tools": [{"name": "find"}]}, "D441", "`available_tools`", "{tools: available_tools}"),
    ({"chosen_reasoning": "Oaks are trees."}, "D441", "`chosen_reasoning`", "<think>\\n{chosen_reasoning}"),
]


@pytest.mark.parametrize(("columns", "code", "named", "fix"), MISSED, ids=lambda value: str(value)[:40])
def test_an_unread_column_that_matters_is_a_warning(
    tmp_path: Path, columns: dict[str, Any], code: str, named: str, fix: str
) -> None:
    empty = {name: None for name in columns if name not in PAIR}
    finding = _only(_load(tmp_path, {**PAIR, **empty}, {**PAIR, **columns}, {**PAIR, **empty}, format="preference"))
    assert (finding.code, named in finding.what, fix in (finding.fix or "")) == (code, True, True), finding.render()
    assert finding.what.startswith("p.jsonl: ")
    assert "1 of 3 rows" in finding.what
    assert "the first is p.jsonl:2" in finding.what


HARMLESS = [
    {"id": 7, "source": "web", "dataset": "d", "split": "train", "lang": "en", "model": "m"},
    {"images": [], "system_prompt": " ", "tools": None, "winner": None, "input": "", "history": [], "videos": {}},
    {"messages": [{"role": "user", "content": "Name a tree."}, {"role": "assistant", "content": "The oak."}]},
    {"instruction": "Name a tree.", "question": "tree", "system": "Name a"},
    {"chosen_score": 2, "rejected_score": 1},
    {"chosen_score": None, "rejected_score": 1},
    {"chosen_rank": 1, "rejected_rank": 2, "chosen_length": 1, "rejected_length": 2},
    {"image": False, "prompt_id": "x", "chosen_model": "m", "tool_calls_used": 3},
]


@pytest.mark.parametrize("columns", HARMLESS, ids=",".join)
def test_a_harmless_column_is_listed_without_a_warning(tmp_path: Path, columns: dict[str, Any]) -> None:
    splits = _load(tmp_path, {**PAIR, **columns})
    assert splits.warnings == []
    assert set(_unread(splits)) == set(columns) - {"tools", "system"}


def test_the_report_counts_rows_with_something_in_a_column(tmp_path: Path) -> None:
    splits = _load(
        tmp_path, {**PAIR, "id": 1, "note": ""}, {**PAIR, "prompt": "Name a river.", "id": 2, "note": "n"}, PAIR
    )
    assert splits.reports["train"].sources == [
        {"path": str(tmp_path / "p.jsonl"), "format": "preference", "rows": 3, "unread": {"id": 2, "note": 1}}
    ]


def test_columns_that_the_recipe_names_are_read(tmp_path: Path) -> None:
    row = {"question": "Name a tree.", "more": {"input": "In Peru.", "label": 3}, "winner": "x", "lang": "en", **PAIR}
    row.pop("prompt")
    fields = {
        "columns": {"prompt": "{question} {more.input}"},
        "filter": "winner == 'x'",
        "select": Select(top=1, by="more.label"),
    }
    splits = _load(tmp_path, row, **fields)
    assert splits.warnings == []
    assert _unread(splits) == {"lang": 1}


def test_a_column_that_a_mapping_hides_or_that_its_format_does_not_use_is_not_read(tmp_path: Path) -> None:
    splits = _load(tmp_path, {**PAIR, "question": "Name a river."}, columns={"prompt": "question"})
    assert "`prompt` is not read" in _only(splits).what
    talk = [{"role": "user", "content": "Hi"}]
    row = {"input": {"messages": talk}, "asked": "Be kind."}
    row |= {"preferred_output": [{"role": "assistant", "content": "a"}]}
    row |= {"non_preferred_output": [{"role": "assistant", "content": "b"}]}
    finding = _only(_load(tmp_path, row, columns={"system": "asked"}))
    assert finding.code == "D441"
    assert "`asked` is not read" in finding.what
    assert "`openai` does not use it, although `columns:` maps it" in (finding.why or "")


def test_a_column_counts_as_read_only_if_its_format_reads_it(tmp_path: Path) -> None:
    rows = {"prompt": "Name a tree.", "question": "Name it in Latin.", "chosen": "a", "rejected": "b"}
    assert "`question` is not read" in _only(_load(tmp_path, rows, format="chatml.default")).what
    rows.pop("prompt")
    assert _load(tmp_path, rows, format="chatml.default").warnings == []
    own = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    splits = _load(tmp_path, {**PAIR, "prompt": own, "system": "Be kind."})
    assert "`system` is not read" in _only(splits).what


def test_a_cached_result_warns_as_the_first_one_did(tmp_path: Path) -> None:
    first, again = (_load(tmp_path, {**PAIR, "images": ["a.png"]}) for _ in range(2))
    assert (first.is_cached, again.is_cached) == (False, True)
    assert again.warnings == first.warnings != []


def test_a_turn_of_a_dialogue_that_begins_with_another_name_is_named(tmp_path: Path) -> None:
    asked = "\n\nHuman: Hi\n\nAssistant:"
    finding = _only(_load(tmp_path, {"chosen": f"{asked} Human: Hello.", "rejected": f"{asked} What?"}))
    assert (finding.code, "`filter`" in (finding.fix or "")) == ("D443", True)


def test_rendered_texts_may_hold_turns(tmp_path: Path) -> None:
    row = {**PAIR, "prompt": "Human: Hi\n\nAssistant:"}
    assert _load(tmp_path, row, format="passthrough").warnings == []
    assert _only(_load(tmp_path, row, format="preference")).code == "D443"


@pytest.mark.parametrize(
    ("row", "way"),
    [
        ({"chosen": "The sky is blue.", "rejected": "The sky is red."}, "`format: implicit_prompt` does"),
        (
            {"prompt": "Hi", "response_0": "a", "response_1": "b", "is_safe": True, "better_response_id": 1},
            "`columns: {winner: better_response_id}`",
        ),
        ({"chosen": "Yes.", "rejected": "No."}, "docs/data.md has an example of each"),
    ],
)
def test_formats_that_auto_never_chooses_are_suggested(tmp_path: Path, row: dict[str, Any], way: str) -> None:
    with pytest.raises(DataError) as caught:
        _load(tmp_path, row)
    (finding,) = caught.value.findings
    assert (finding.code, way in (finding.why or "")) == ("D402", True)


def test_a_verdict_that_is_mapped_decides(tmp_path: Path) -> None:
    row = {"prompt": "Hi", "response_0": "a", "response_1": "b", "better_response_id": 1}
    splits = _load(tmp_path, row, columns={"winner": "better_response_id"})
    assert [turn["content"] for answer in splits.train[0].answers for turn in answer] == ["b", "a"]
    assert splits.warnings == []


def test_names_belong_to_kinds() -> None:
    kinds = {
        name: kind_of(name) for name in ("img", "sysPrompt", "SYSTEM", "Tool-Definitions", "queries", "dialog", "ids")
    }
    assert kinds == {
        "img": "media",
        "sysPrompt": "system",
        "SYSTEM": "system",
        "Tool-Definitions": "tools",
        "queries": "content",
        "dialog": "content",
        "ids": None,
    }
    assert {name: kind_of(name) for name in kinds} == kinds
    names = ("avg_rating_chosen", "score", "avg_rating_rejected", "chosen_score", "chosen", "rejected")
    assert score_pairs(names) == [("avg_rating_chosen", "avg_rating_rejected")]


def test_scores_with_the_ends_of_the_mapped_answers_are_compared(tmp_path: Path) -> None:
    row = {"prompt": "Name a tree.", "answer_0": "The oak.", "answer_1": "A tree.", "score_0": -1.0, "score_1": 1.0}
    splits = _load(tmp_path, row, columns={"chosen": "answer_0", "rejected": "answer_1"})
    assert _only(splits).code == "D442"
    assert "`score_0` is lower than `score_1`: 1 of 1 rows" in _only(splits).what
    assert not _load(tmp_path, {**row, "score_0": 2}, columns={"chosen": "answer_0", "rejected": "answer_1"}).warnings


@pytest.mark.parametrize(
    "columns",
    [
        {"prompt": "['Name a tree.', 'And another.']"},
        {"chosen": '["The oak."]', "rejected": '["A tree."]'},
        {"chosen": "['The oak.'\n 'The elm.']", "rejected": "array(['A tree.'], dtype=object)"},
    ],
)
def test_lists_of_texts_in_the_place_of_texts_are_a_warning(tmp_path: Path, columns: dict[str, str]) -> None:
    finding = _only(_load(tmp_path, {**PAIR, **columns}, PAIR))
    assert finding.code == "D444"
    assert "texts are lists of texts, such as `['...', '...']`: 1 of 2 rows" in finding.what
    assert "{chosen: chosen.0}" in (finding.fix or "")


def test_a_few_answers_that_are_lists_are_no_warning(tmp_path: Path) -> None:
    code = {"prompt": "Sort it.", "chosen": "['a', 'b']", "rejected": "['b', 'a']"}
    assert not _load(tmp_path, code, PAIR, {**PAIR, "prompt": "Name another."}).warnings


@pytest.mark.parametrize("names", [("a", "b"), ("response_a", "response_b")])
def test_answers_that_name_columns_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    row = {"prompt": "Name a tree.", "response_a": "The oak.", "response_b": "A tree."}
    with pytest.raises(DataError, match=r"names the column `response_a`.*winner: chosen"):
        _load(tmp_path, {**row, "chosen": names[0], "rejected": names[1]})
