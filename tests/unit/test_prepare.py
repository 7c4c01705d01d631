"""The data stage: selection, duplicates, mixtures, held-out parts and bad rows, with every row accounted for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dpo_recipes.data.message import Message
from dpo_recipes.data.prepare import RowSplits, load_rows
from dpo_recipes.data.report import SplitReport
from dpo_recipes.data.rows import Row
from dpo_recipes.data.store import RowFile, RowWriter
from dpo_recipes.errors import DataError
from dpo_recipes.recipe.schema.data import Data, HeldOut, Select, Source

PROMPT: list[Message] = [{"role": "user", "content": "Name a tree."}]
ANSWER: list[Message] = [{"role": "assistant", "content": "The oak."}]


def _pair(number: int, **columns: Any) -> dict[str, Any]:
    return {"prompt": f"Question {number}?", "chosen": f"Yes {number}.", "rejected": "It depends.", **columns}


def _file(folder: Path, rows: list[Any], name: str = "p.jsonl") -> Source:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Source(path=str(folder / name))


def _load(source: Source | list[Source], **fields: Any) -> RowSplits:
    data = Data(train=source if isinstance(source, list) else [source], **fields)
    splits = load_rows(data, seed=3)
    for report in splits.reports.values():
        assert report.rows_in == report.rows_kept + sum(report.dropped.values())
    return splits


def _prompts(splits: RowSplits, name: str = "train") -> list[str]:
    return [row.prompt[0]["content"] for row in splits.rows[name]]


def test_rows_come_in_the_order_of_their_sources(tmp_path: Path) -> None:
    sources = [_file(tmp_path, [_pair(1), _pair(2)]), _file(tmp_path, [_pair(0)], "q.jsonl")]
    splits = _load(sources)
    assert _prompts(splits) == ["Question 1?", "Question 2?", "Question 0?"]
    assert [row.where for row in splits.train] == ["p.jsonl:1", "p.jsonl:2", "q.jsonl:1"]


@pytest.mark.parametrize(
    ("fields", "kept", "dropped"),
    [
        ({"filter": "score > 2"}, [3, 4, 5], {"filter": 3}),
        ({"filter": "score > 2", "limit": 2}, [3, 4], {"filter": 3}),
        ({"limit": 2}, [0, 1], {}),
        ({"select": Select(top=2, by="score")}, [4, 5], {"select": 4}),
        ({"select": Select(bottom=2, by="score")}, [0, 1], {"select": 4}),
        ({"select": Select(top=4, by="score"), "limit": 1}, [2], {"select": 5}),
        ({"select": Select(top=9, by="score")}, [0, 1, 2, 3, 4, 5], {}),
        ({"select": Select(top=1, by="score"), "filter": "score < 3"}, [2], {"filter": 3, "select": 2}),
    ],
)
def test_selection(tmp_path: Path, fields: dict[str, Any], kept: list[int], dropped: dict[str, int]) -> None:
    source = _file(tmp_path, [_pair(number, score=number) for number in range(6)])
    splits = _load(source.model_copy(update=fields))
    assert _prompts(splits) == [f"Question {number}?" for number in kept]
    assert splits.reports["train"].dropped == dropped


def test_a_column_to_select_by_that_is_missing_or_no_number(tmp_path: Path) -> None:
    select = {"select": Select(top=1, by="score")}
    with pytest.raises(DataError, match="`select` names the column `score`") as caught:
        _load(_file(tmp_path, [_pair(0)]).model_copy(update=select))
    assert caught.value.findings[0].code == "D412"
    with pytest.raises(DataError, match="`score` is 'much', which is not a number"):
        _load(_file(tmp_path, [_pair(0, score="1.5"), _pair(1, score="much")]).model_copy(update=select))


def test_null_is_never_selected(tmp_path: Path) -> None:
    source = _file(tmp_path, [_pair(0, score=None), _pair(1, score=1)])
    assert _prompts(_load(source.model_copy(update={"select": Select(top=2, by="score")}))) == ["Question 1?"]


def test_duplicates_go_and_the_first_stays(tmp_path: Path) -> None:
    sources = [_file(tmp_path, [_pair(1), _pair(2), _pair(1)]), _file(tmp_path, [_pair(2), _pair(3)], "q.jsonl")]
    held_out = HeldOut(sources=[_file(tmp_path, [_pair(3), _pair(4)], "e.jsonl")])
    splits = _load(sources, eval=held_out, dedup="exact")
    assert _prompts(splits) == ["Question 1?", "Question 2?", "Question 3?"]
    assert _prompts(splits, "eval") == ["Question 4?"]
    assert splits.reports["train"].examples == {"duplicate": ["p.jsonl:3", "q.jsonl:1"]}
    assert splits.reports["eval"].dropped == {"duplicate": 1}


def test_near_duplicates_go(tmp_path: Path) -> None:
    text = " ".join(f"word{number}" for number in range(60))
    rows = [{"prompt": text, "chosen": text + end, "rejected": f"no {text}"} for end in ("", " indeed", "")]
    rows.append({"prompt": "Something quite different?", "chosen": "Yes.", "rejected": "It depends on much."})
    splits = _load(_file(tmp_path, rows), dedup="near")
    assert splits.reports["train"].dropped == {"duplicate": 1, "near_duplicate": 1}
    assert [row.where for row in splits.train] == ["p.jsonl:1", "p.jsonl:4"]


def test_a_mixture_repeats_nothing_and_keeps_its_parts(tmp_path: Path) -> None:
    many = _file(tmp_path, [_pair(number) for number in range(90)]).model_copy(update={"weight": 0.75})
    few = _file(tmp_path, [_pair(number) for number in range(100, 110)], "q.jsonl").model_copy(update={"weight": 0.25})
    splits = _load([many, few])
    prompts = _prompts(splits)
    assert len(prompts) == len(set(prompts)) == 40
    assert sum(row.where.startswith("q.jsonl") for row in splits.train) == 10
    assert splits.reports["train"].dropped == {"mixture": 60}


def test_held_out_parts_share_no_prompt_with_the_rest(tmp_path: Path) -> None:
    rows = [_pair(number % 20, chosen=f"Answer {number}") for number in range(60)]
    splits = _load(_file(tmp_path, rows), eval=HeldOut(fraction=0.2), test=HeldOut(count=6))
    parts = {name: set(_prompts(splits, name)) for name in splits.rows}
    assert {name: len(rows) for name, rows in splits.rows.items()} == {"train": 42, "eval": 12, "test": 6}
    assert not parts["train"] & parts["eval"] | parts["train"] & parts["test"] | parts["eval"] & parts["test"]
    assert splits.warnings == []


def test_a_stable_split_does_not_move_when_rows_are_added(tmp_path: Path) -> None:
    held_out = HeldOut(fraction=0.3, stable=True)
    few = _load(_file(tmp_path, [_pair(number) for number in range(50)]), eval=held_out)
    many = _load(_file(tmp_path, [_pair(number) for number in range(100)]), eval=held_out)
    assert set(_prompts(few, "eval")) < set(_prompts(many, "eval"))
    assert set(_prompts(few)) < set(_prompts(many))


def test_limits_and_shuffling(tmp_path: Path) -> None:
    source = _file(tmp_path, [_pair(number) for number in range(30)])
    assert _prompts(_load(source, limit=3)) == ["Question 0?", "Question 1?", "Question 2?"]
    shuffled = _prompts(_load(source, shuffle=True))
    assert shuffled != sorted(shuffled, key=lambda text: int(text.split()[1][:-1]))
    assert shuffled == _prompts(_load(source, shuffle=True))
    assert len(_prompts(_load(source, eval=HeldOut(count=10, limit=4)), "eval")) == 4


def test_a_prompt_on_both_sides_is_a_warning(tmp_path: Path) -> None:
    held_out = HeldOut(sources=[_file(tmp_path, [_pair(1, chosen="Other."), _pair(2)], "e.jsonl")])
    (finding,) = _load(_file(tmp_path, [_pair(1)]), eval=held_out).warnings
    assert finding.code == "D490"
    assert "1 of 2 held-out prompts (eval)" in finding.what
    assert "e.jsonl:1" in (finding.why or "")


BAD = [
    ({"chosen": ""}, "no_text", "`chosen` is empty"),
    ({"chosen": None}, "no_text", "`chosen` is empty"),
    ({"chosen": 5}, "no_text", "`chosen` is int, not text"),
    ({"prompt": "a\0b"}, "bad_text", "`prompt` has a NUL character at position 1"),
    ({"prompt": "a\ud800"}, "bad_text", "`prompt` has half a surrogate pair"),
    ({"rejected": "x" * 10_000_000}, "huge_text", "`rejected` has 10,000,000 characters"),
    ({"prompt": [{"role": "system", "content": "Be brief."}]}, "only_system", "only contains a system message"),
    ({"prompt": [{"role": "assistant", "content": "Hi"}]}, "bad_role_order", "ends with a message of `assistant`"),
    ({"prompt": [{"role": "robot", "content": "Hi"}]}, "bad_role", "`prompt[0].role` is `robot`"),
    ({"rejected": "Yes 7."}, "equal_answers", "chosen and rejected are equal"),
]


@pytest.mark.parametrize(("columns", "reason", "detail"), BAD, ids=[reason for _, reason, _ in BAD])
def test_a_bad_row_is_named_or_dropped(tmp_path: Path, columns: dict[str, Any], reason: str, detail: str) -> None:
    source = _file(tmp_path, [_pair(1), _pair(7, **columns), _pair(3)])
    with pytest.raises(DataError) as caught:
        _load(source)
    (finding,) = caught.value.findings
    assert finding.what.startswith("p.jsonl:2: ")
    assert detail in finding.what
    splits = _load(source, on_bad_row="drop")
    assert len(splits.train) == 2
    assert splits.reports["train"].dropped == {reason: 1}
    assert splits.reports["train"].examples == {reason: ["p.jsonl:2"]}


def test_an_allowance_for_bad_rows(tmp_path: Path) -> None:
    source = _file(tmp_path, [*[_pair(number) for number in range(9)], _pair(9, chosen="")])
    assert len(_load(source, max_bad_fraction=0.1).train) == 9
    with pytest.raises(DataError):
        _load(source, max_bad_fraction=0.09)


def test_many_bad_rows_are_counted_after_the_first_ten(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        _load(_file(tmp_path, [_pair(number, chosen="" if number % 2 else "Yes.") for number in range(40)]))
    assert len(caught.value.findings) == 11
    assert caught.value.findings[-1].what == "10 more bad rows, 20 of 40 in all"


@pytest.mark.parametrize(
    ("rows", "fields", "code"),
    [
        ([], {}, "D403"),
        ([_pair(1)], {"filter": "len(prompt) > 1000"}, "D409"),
        ([_pair(1, chosen="")], {}, "D409"),
        ([{"prompt": "a", "completion": "b", "label": True}], {}, "D413"),
    ],
)
def test_nothing_to_train_on(tmp_path: Path, rows: list[Any], fields: dict[str, Any], code: str) -> None:
    with pytest.raises(DataError) as caught:
        _load(_file(tmp_path, rows).model_copy(update=fields), on_bad_row="drop")
    assert caught.value.findings[0].code == code


def test_ties_are_left_out_and_counted_without_an_error(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"{n}?", "response_a": "Yes.", "response_b": "No.", "winner": w}
        for n, w in enumerate(["a", "tie", "B"])
    ]
    splits = _load(_file(tmp_path, rows))
    assert [row.answers[0][0]["content"] for row in splits.train] == ["Yes.", "No."]
    assert splits.reports["train"].dropped == {"tie": 1}
    assert splits.reports["train"].steps == [{"step": "read", "rows": 3}, {"step": "convert", "rows": 2}]
    with pytest.raises(DataError, match="every row was dropped"):
        _load(_file(tmp_path, [{**row, "winner": "tie"} for row in rows]))


def test_too_few_rows_to_hold_some_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 rows cannot be split") as caught:
        _load(_file(tmp_path, [_pair(1)]), eval=HeldOut(fraction=0.5))
    assert caught.value.findings[0].code == "D407"


def test_losses_are_told_in_one_line() -> None:
    report = SplitReport(rows_in=1800, rows_kept=1790, dropped={"no_text": 10}, truncated={"prompt_start": 65})
    assert report.describe_changes() == "1,790 of 1,800 pairs kept; 10 dropped (no_text); 65 truncated (prompt start)"


def test_the_steps_add_up(tmp_path: Path) -> None:
    rows = [_pair(number, score=number) for number in range(20)] + [_pair(0, score=0), _pair(30, score=9, chosen="")]
    source = _file(tmp_path, rows).model_copy(update={"filter": "score < 15", "select": Select(top=12, by="score")})
    splits = _load(source, on_bad_row="drop", dedup="exact", eval=HeldOut(count=4), limit=5)
    assert splits.reports["train"].steps == [
        {"step": "read", "rows": 22},
        {"step": "filter", "rows": 17},
        {"step": "convert", "rows": 16},
        {"step": "select", "rows": 12},
        {"step": "dedup", "rows": 12},
        {"step": "held out", "rows": 8},
        {"step": "limit", "rows": 5},
    ]


@pytest.mark.parametrize(
    "row",
    [
        Row(PROMPT, (ANSWER, ANSWER * 2), "f:1"),
        Row(PROMPT, (ANSWER,), "f:2", label=False, weight=0.0),
        Row(PROMPT, (ANSWER,), "f:3", label=True, tools=[{"name": "look"}], template_kwargs={"thinks": True}),
        Row(PROMPT, (ANSWER,), "f:4", rendered=True),
    ],
    ids=lambda row: row.where,
)
def test_a_stored_row_is_read_unchanged(row: Row, tmp_path: Path) -> None:
    with RowWriter(tmp_path / "rows.jsonl") as writer:
        writer.write(row)
    assert list(RowFile(tmp_path / "rows.jsonl")) == [row]
