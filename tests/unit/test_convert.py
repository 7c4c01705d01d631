"""Rows become what the objective learns from, each conversion is counted, and impossible ones are errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dpo_recipes import registry
from dpo_recipes.data.prepare import RowSplits, load_rows
from dpo_recipes.data.report import describe_conversion
from dpo_recipes.data.rows import DataFormat, Row
from dpo_recipes.errors import DataError
from dpo_recipes.objectives.base import RowShape
from dpo_recipes.recipe.schema.data import Data, HeldOut, Source

FORMATS: dict[str, DataFormat] = {name: registry.load("data_formats", name) for name in registry.DATA_FORMATS}
PAIRS = [{"prompt": f"Question {n}?", "chosen": f"Yes {n}.", "rejected": "It depends."} for n in range(3)]
LABELLED = [{"prompt": f"{n}?", "completion": f"Answer {n}.", "label": n % 3 > 0} for n in range(6)]
RANKED = [
    {"prompt": "Human: Name a prime above ten.\n\nAssistant:",
     "answers": [{"answer": answer, "rank": rank} for answer, rank in (("Twelve.", 3), ("11.", 1), ("Seven.", 2))]}
]  # fmt: skip


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPO_RECIPE_CACHE", str(tmp_path / "cache"))


def source_of(folder: Path, rows: list[Any], name: str = "a.jsonl", **fields: Any) -> Source:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Source(path=str(folder / name), **fields)


def load(sources: Source | list[Source], shape: RowShape, **fields: Any) -> RowSplits:
    data = Data(train=sources if isinstance(sources, list) else [sources], **fields)
    splits = load_rows(data, seed=3, shape=shape)
    for report in splits.reports.values():
        assert report.rows_in == report.rows_kept + sum(report.dropped.values())
        assert report.steps[-1]["rows"] == report.rows_kept
    return splits


def shown(row: Row) -> tuple[Any, ...]:
    """The last message of the prompt, that of each answer, and the label."""
    return row.prompt[-1]["content"], [answer[-1]["content"] for answer in row.answers], row.label


def test_a_pair_becomes_two_labelled_rows(tmp_path: Path) -> None:
    splits = load(source_of(tmp_path, PAIRS), "labelled")
    report = splits.reports["train"]
    answers = [([f"Yes {n}."], True) if good else (["It depends."], False) for n in range(3) for good in (True, False)]
    assert [shown(row)[1:] for row in splits.train] == answers
    assert [shown(row)[0] for row in splits.train] == [f"Question {n}?" for n in range(3) for _ in range(2)]
    assert report.shape == "labelled"
    assert report.steps == [{"step": "read", "rows": 3}, {"step": "convert", "rows": 6}]
    assert report.conversions == [{"from": "pairs", "to": "labelled rows", "rows": 3, "made": 6}]
    assert describe_conversion(report.conversions[0]) == "3 pairs became 6 labelled rows"
    assert report.describe_changes().startswith("3 pairs became 6 labelled rows; ")


def test_of_a_pair_the_chosen_answer_is_imitated(tmp_path: Path) -> None:
    splits = load(source_of(tmp_path, PAIRS), "completion")
    assert list(map(shown, splits.train)) == [(f"Question {n}?", [f"Yes {n}."], None) for n in range(3)]
    assert splits.reports["train"].conversions == [{"from": "pairs", "to": "completions", "rows": 3, "made": 3}]


def test_good_answers_are_imitated_and_bad_ones_left_out(tmp_path: Path) -> None:
    splits = load(source_of(tmp_path, LABELLED), "completion")
    assert list(map(shown, splits.train)) == [(f"{n}?", [f"Answer {n}."], None) for n in (1, 2, 4, 5)]
    report = splits.reports["train"]
    assert report.dropped == {"bad_answer": 2}
    assert report.examples == {"bad_answer": ["a.jsonl:1", "a.jsonl:4"]}
    assert report.conversions == [{"from": "labelled rows", "to": "completions", "rows": 6, "made": 4}]


@pytest.mark.parametrize(
    ("shape", "rows", "conversions"),
    [
        (
            "pair",
            [(["11.", "Seven."], None), (["11.", "Twelve."], None)],
            ["1 rows of `ranked` became 2 pairs"],
        ),
        (
            "labelled",
            [(["11."], True), (["Seven."], False), (["Twelve."], False)],
            ["1 rows of `ranked` became 2 pairs", "2 pairs became 3 labelled rows"],
        ),
        ("completion", [(["11."], None)], ["1 rows of `ranked` became 2 pairs", "2 pairs became 1 completions"]),
    ],
)
def test_the_best_answer_of_a_ranking_counts_once(
    tmp_path: Path, shape: RowShape, rows: list[Any], conversions: list[str]
) -> None:
    splits = load(source_of(tmp_path, RANKED), shape)
    assert [shown(row)[1:] for row in splits.train] == rows
    assert list(map(describe_conversion, splits.reports["train"].conversions)) == conversions


def test_sources_of_several_kinds_are_counted_together(tmp_path: Path) -> None:
    sources = [
        source_of(tmp_path, PAIRS), source_of(tmp_path, LABELLED, "b.jsonl"), source_of(tmp_path, PAIRS, "c.jsonl")
    ]  # fmt: skip
    splits = load(sources, "labelled", dedup="exact")
    report = splits.reports["train"]
    assert report.conversions == [{"from": "pairs", "to": "labelled rows", "rows": 6, "made": 12}]
    assert (report.rows_kept, report.dropped) == (12, {"duplicate": 6})


@pytest.mark.parametrize("name", [name for name, data_format in FORMATS.items() if data_format.kind == "labelled"])
def test_objectives_on_labelled_rows_take_all_labelled_formats(tmp_path: Path, name: str) -> None:
    data_format = FORMATS[name]
    splits = load(source_of(tmp_path, [data_format.example], format=name), "labelled")
    (row,) = splits.train
    assert row.label is not None
    assert (len(row.answers), splits.reports["train"].conversions) == (1, [])


def test_there_are_fourteen_labelled_formats() -> None:
    assert sum(data_format.kind == "labelled" for data_format in FORMATS.values()) == 14


@pytest.mark.parametrize("name", [name for name, data_format in FORMATS.items() if data_format.kind == "pair"])
def test_all_formats_of_pairs_become_labelled_rows(tmp_path: Path, name: str) -> None:
    splits = load(source_of(tmp_path, [FORMATS[name].example], format=name), "labelled")
    labels = [row.label for row in splits.train]
    assert labels[:2] == [True, False]
    assert sum(map(bool, labels)) == 1


@pytest.mark.parametrize(
    ("rows", "made"),
    [(PAIRS, "pairs"), (LABELLED, "labelled rows"), ([{"prompt": "Hi", "completion": "a"}], "completions")],
)
def test_of_any_row_the_prompt_is_left(tmp_path: Path, rows: list[Any], made: str) -> None:
    splits = load(source_of(tmp_path, rows), "prompt")
    assert all(row.answers == () and row.label is None for row in splits.train)
    assert splits.reports["train"].conversions[0]["from"] == made
    assert splits.reports["train"].conversions[0]["to"] == "prompts"


def test_prompts_alone_are_read_if_no_other_format_fits(tmp_path: Path) -> None:
    rows = [{"prompt": "One?", "solution": 1}, {"prompt": "Two?", "solution": None}]
    data = Data(train=[source_of(tmp_path, rows, columns={"right": "solution"})])
    splits = load_rows(data, 3, "prompt", ["right"])
    assert [(shown(row)[0], row.columns) for row in splits.train] == [("One?", {"right": 1}), ("Two?", {"right": None})]
    assert load_rows(data, 3, "prompt").train[0].columns == {}
    with pytest.raises(DataError) as caught:
        load_rows(data, 3, "prompt", ["wrong"])
    assert caught.value.findings[0].code == "D417"
    assert "`wrong`" in caught.value.findings[0].what
    with pytest.raises(DataError) as caught:
        load(source_of(tmp_path, rows), "pair")
    assert caught.value.findings[0].code == "D402", "without answers, rows are no preferences"


@pytest.mark.parametrize(
    ("name", "shape", "fix"),
    [
        ("unpaired", "pair", "data with a chosen and a rejected answer, or write `objective: {kind: kto}`"),
        ("messages", "pair", "data with a chosen and a rejected answer, or write `objective: {kind: sft}`"),
        ("alpaca_sft", "pair", "`objective: {kind: sft}`"),
        ("prompt_completion", "labelled", "data with a label for each answer, or write `objective: {kind: sft}`"),
    ],
)
def test_rows_that_no_conversion_makes_are_an_error(tmp_path: Path, name: str, shape: RowShape, fix: str) -> None:
    with pytest.raises(DataError) as caught:
        load(source_of(tmp_path, [FORMATS[name].example]), shape)
    (finding,) = caught.value.findings
    assert finding.code == "D413"
    assert f"(format `{name}`)" in finding.what
    assert fix in (finding.fix or "")


def test_the_same_data_are_cached_for_each_shape(tmp_path: Path) -> None:
    source = source_of(tmp_path, PAIRS)
    made = [load(source, shape) for shape in ("pair", "labelled", "completion", "labelled")]
    assert len({splits.key for splits in made}) == 3
    assert [splits.is_cached for splits in made] == [False, False, False, True]


def test_both_rows_of_a_pair_are_held_out_together(tmp_path: Path) -> None:
    rows = [{**PAIRS[0], "prompt": f"{n}?"} for n in range(40)]
    splits = load(source_of(tmp_path, rows), "labelled", eval=HeldOut(fraction=0.25))
    train, held_out = ({row.prompt[0]["content"] for row in splits.rows[name]} for name in ("train", "eval"))
    assert not train & held_out
    assert len(splits.rows["eval"]) == 2 * len(held_out) == 20


def said(*contents: str) -> list[dict[str, str]]:
    """A dialogue that the user begins."""
    return [{"role": ("user", "assistant")[n % 2], "content": content} for n, content in enumerate(contents)]


DIALOGUE = {"messages": said("Name a tree.", "The oak.", "Another?", "The ash.")}


@pytest.mark.parametrize(
    ("turns", "num_prompt", "num_answer"), [("assistant", 1, 3), ("all", 1, 3), ("last", 3, 1)], ids=str
)
def test_a_dialogue_is_answered_by_all_turns_or_by_the_last(
    tmp_path: Path, turns: Any, num_prompt: int, num_answer: int
) -> None:
    splits = load(source_of(tmp_path, [DIALOGUE]), "completion", train_on_turns=turns)
    (row,) = splits.train
    assert [*row.prompt, *row.answers[0]] == DIALOGUE["messages"]
    assert (len(row.prompt), len(row.answers[0])) == (num_prompt, num_answer)


def test_the_last_turn_of_a_chosen_conversation_includes_calls_after_the_question(tmp_path: Path) -> None:
    tool_use = [
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "look_up", "arguments": {}}}]},
        {"role": "tool", "content": "19"},
        {"role": "assistant", "content": "19 degrees."},
    ]
    row = {"prompt": "Weather?", "chosen": [*tool_use[:1], *tool_use[1:]], "rejected": "No."}
    (made,) = load(source_of(tmp_path, [row]), "completion", train_on_turns="last").train
    assert [message["role"] for message in made.prompt] == ["user", "assistant", "tool"]
    assert [message["content"] for message in made.answers[0]] == ["19 degrees."]


def test_turns_change_the_rows_only_where_the_last_is_asked_for(tmp_path: Path) -> None:
    source = source_of(tmp_path, [DIALOGUE])
    made = {turns: load(source, "completion", train_on_turns=turns) for turns in ("assistant", "all", "last")}
    assert made["assistant"].key == made["all"].key != made["last"].key


def test_weights_and_margins_are_read_where_the_recipe_names_their_columns(tmp_path: Path) -> None:
    rows = [{**row, "votes": n, "weight": "unread", "gap": "0.5"} for n, row in enumerate(PAIRS)]
    named = source_of(tmp_path, rows, columns={"weight": "votes", "margin": "gap"})
    other = source_of(tmp_path, [{**PAIRS[0], "prompt": "Other?"}], "b.jsonl")
    splits = load([named, other], "pair")
    assert [(row.weight, row.margin) for row in splits.train] == [(0.0, 0.5), (1.0, 0.5), (2.0, 0.5), (1.0, 0.0)]
    assert [(row.weight, row.margin) for row in load(named, "labelled").train][:2] == [(0.0, None)] * 2
    assert [(row.weight, row.margin) for row in load(other, "pair").train] == [(None, None)]


@pytest.mark.parametrize("value", [None, "much", -1, True])
def test_a_weight_that_is_no_weight_is_a_bad_row(tmp_path: Path, value: Any) -> None:
    source = source_of(tmp_path, [{**PAIRS[0], "votes": value}], columns={"weight": "votes"})
    with pytest.raises(DataError) as caught:
        load(source, "pair")
    assert caught.value.findings[0].code == "D404"
    assert "`votes`" in caught.value.findings[0].what


def test_subsets_are_counted_in_the_rows_of_each_split(tmp_path: Path) -> None:
    """Whole numbers and truth values name a subset too; null, NaN and blank texts name none."""
    values = ["chat", " hard \n one ", None, "", 3, 3.0, float("nan"), True]
    rows = [{"prompt": f"{n}?", "chosen": "A.", "rejected": "B.", "kind": value} for n, value in enumerate(values)]
    named = source_of(tmp_path, rows, columns={"subset": "kind"})
    joined = source_of(tmp_path, rows[:1], "b.jsonl", columns={"subset": "{prompt}/{kind}"})
    other = source_of(tmp_path, [{**PAIRS[0], "subset": "unread"}], "c.jsonl")
    splits = load([named, other], "pair", eval=HeldOut(sources=[joined]))
    assert [row.subset for row in splits.train] == ["chat", "hard one", None, None, "3", "3", None, "true", None]
    assert splits.reports["train"].subsets == {"3": 2, "chat": 1, "hard one": 1, "true": 1}
    assert splits.reports["eval"].subsets == {"0?/chat": 1}
    assert load(named, "labelled").reports["train"].subsets["3"] == 4
    assert load(named, "pair", limit=1).reports["train"].subsets == {"chat": 1}
    assert load(other, "pair").reports["train"].subsets == {}


@pytest.mark.parametrize("value", [0.5, ["chat"], {"name": "chat"}, "long " * 30])
def test_a_value_that_names_no_subset_is_a_bad_row(tmp_path: Path, value: Any) -> None:
    rows = [PAIRS[0] | {"kind": "chat"}, PAIRS[1] | {"kind": value}]
    source = source_of(tmp_path, rows, columns={"subset": "kind"})
    with pytest.raises(DataError) as caught:
        load(source, "pair")
    assert caught.value.findings[0].code == "D404"
    assert "`kind`" in caught.value.findings[0].what
    assert load(source, "pair", on_bad_row="drop").reports["train"].dropped == {"bad_subset": 1}


@pytest.mark.parametrize(
    ("held_out", "at"),
    [(False, ("data", "train", 1, "columns", "subset")), (True, ("data", "eval", "sources", 0, "columns", "subset"))],
)
def test_a_column_of_many_values_is_no_subset(tmp_path: Path, held_out: bool, at: tuple[str | int, ...]) -> None:
    rows = [{"prompt": f"{n}?", "chosen": "A.", "rejected": "B.", "kind": f"k{n}"} for n in range(101)]
    plain = source_of(tmp_path, PAIRS)
    hundred = source_of(tmp_path, rows[:100], "b.jsonl", columns={"subset": "kind"})
    assert len(load([plain, hundred], "pair").reports["train"].subsets) == 100
    more = source_of(tmp_path, rows, "c.jsonl", columns={"subset": "kind"})
    with pytest.raises(DataError) as caught:
        load([plain] if held_out else [plain, more], "pair", eval=HeldOut(sources=[more] if held_out else []))
    (found,) = caught.value.findings
    assert (found.code, found.at) == ("D415", at)
    assert found.what == "`kind` names more than 100 subsets"
    assert "`k0`, `k1`, `k2`" in (found.why or "")
